#!/usr/bin/env bash
# OpenSearch 2.19.1, ML Commons: a connector that no model uses cannot be deleted (409) nor changed (400) where a model uses
# another connector whose id shares a word with its own: "1 models are still using this connector". Ids are made of the
# time and of six random bytes that a node takes when it starts, in base64 with "-" and "_", so that two made about the same
# time may differ in their first and last letters alone. Where two "-" set the middle apart, it is a word, and the same in
# both: "ZAx-LKIBiegCBg-OV048" and "XAx-LKIBiegCBg-OUU79" came from a server on one day. One node in eight has a "-" in its
# bytes, and for about a minute out of seventy the time has one too; one node in 150 has two, and then all its ids share.
#
# Expected: refused where a model has that connector_id. Seen (30 November 2026): refused by another connector's model.
# Why: the models' index has no mapping for connector_id, so it is text, and DeleteConnectorTransportAction asks for it
# with a match query, by words. UpdateConnectorTransportAction does too, among deployed models; so does 3.8.0.0's source.
# Here both connectors get ids of that form by writing to the connectors' index: the server's own come when they come.
# Needs Java 17 to 21, curl, unzip, python3, and root or any other user; fetches 420 MB from Maven Central.
set -euo pipefail
version=2.19.1
folder=$(mktemp -d)
server=""
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; sleep 3; rm -rf "$folder"' EXIT
base=https://repo1.maven.org/maven2/org/opensearch
curl -fsS -o "$folder/server.zip" "$base/distribution/integ-test-zip/opensearch/$version/opensearch-$version.zip"
unzip -q "$folder/server.zip" -d "$folder"
home=$folder/opensearch-$version
OPENSEARCH_JAVA_HOME=$(dirname "$(dirname "$(readlink -f "$(command -v java)")")")
export OPENSEARCH_JAVA_HOME OPENSEARCH_JAVA_OPTS="-Xms768m -Xmx768m"
for plugin in opensearch-job-scheduler opensearch-ml-plugin; do
    curl -fsS -o "$folder/$plugin.zip" "$base/plugin/$plugin/$version.0/$plugin-$version.0.zip"
    "$home/bin/opensearch-plugin" install --batch "file://$folder/$plugin.zip" >"$folder/installed" 2>&1
done
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
printf '%s\n' "discovery.type: single-node" "network.host: 127.0.0.1" "http.port: $port" \
    "plugins.ml_commons.only_run_on_ml_node: false" "plugins.ml_commons.connector.private_ip_enabled: true" \
    'plugins.ml_commons.trusted_connector_endpoints_regex: ["^http://127.0.0.1:.*$"]' \
    >"$home/config/opensearch.yml"
run=()
if [ "$(id -u)" = 0 ]; then # the server refuses to run as root
    chmod 755 "$folder"
    chown -R nobody "$folder"
    run=(setpriv --reuid nobody --clear-groups)
fi
"${run[@]}" "$home/bin/opensearch" >"$folder/log" 2>&1 &
server=$!
url=http://127.0.0.1:$port
for _ in $(seq 180); do curl -fs -o /dev/null "$url/_cluster/health" && break; sleep 1; done
ask() { curl -s -H "content-type: application/json" -X "$1" "$url/$2" ${3:+-d "$3"}; }
value() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }
connector='{"name": "n", "version": "1", "protocol": "http", "credential": {"key": "none"}, "parameters": {"a": "b"},
    "actions": [{"action_type": "predict", "method": "POST", "url": "http://127.0.0.1:1/", "request_body": "{}"}]}'
first=XAx-LKIBiegCBg-OUU79
second=ZAx-LKIBiegCBg-OV048
for id in "$first" "$second"; do
    made=$(ask POST _plugins/_ml/connectors/_create "$connector" | value connector_id)
    ask PUT ".plugins-ml-connector/_doc/$id?refresh=true" "$(ask GET ".plugins-ml-connector/_source/$made")" >"$folder/put"
done
group=$(ask POST _plugins/_ml/model_groups/_register '{"name": "g"}' | value model_group_id)
body="{\"name\": \"m\", \"function_name\": \"remote\", \"model_group_id\": \"$group\", \"connector_id\": \"$first\"}"
model=$(ask POST _plugins/_ml/models/_register "$body" | value model_id)
ask POST "_plugins/_ml/models/$model/_deploy" >"$folder/deployed"
sleep 5
named=$(ask GET "_plugins/_ml/models/$model" | value connector_id)
mapping=$(ask GET ".plugins-ml-model/_mapping/field/connector_id")
change=$(ask PUT "_plugins/_ml/connectors/$second" '{"description": "other"}')
delete=$(ask DELETE "_plugins/_ml/connectors/$second")
echo "the only model, $model, has connector_id $named"
echo "$mapping"
echo "changing $second: $change"
echo "deleting $second: $delete"
[ "$named" = "$first" ]
[[ "$mapping" == *'"connector_id":{"type":"text"'* ]]
[[ "$change" == *"1 models are still using this connector"* ]]
[[ "$delete" == *"1 models are still using this connector"*"$model"* ]]
echo "as recorded"
