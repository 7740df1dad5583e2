"""Which published archives make a server, each with the SHA-256 of the bytes we tried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["elasticsearch", "opensearch"]
KINDS: tuple[Kind, ...] = ("elasticsearch", "opensearch")
VERSIONS: dict[Kind, str] = {"elasticsearch": "8.19.0", "opensearch": "2.19.1"}


@dataclass(frozen=True, slots=True)
class Archive:
    """One file of a Maven repository: "group:artifact:version:type" and the SHA-256 of its bytes."""

    coordinates: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The name Maven gives the file."""
        _, artifact, version, kind = self.coordinates.split(":")
        return f"{artifact}-{version}.{kind}"


@dataclass(frozen=True, slots=True)
class Module:
    """A server module that the archive lacks: its plugin class, its jars, the modules it builds on."""

    name: str
    class_name: str
    jars: tuple[Archive, ...]
    extends: str = ""
    permissions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that makes a server: the archive of the server, modules to add, plugins in the order of their needs."""

    kind: Kind
    server: Archive
    modules: tuple[Module, ...] = ()
    plugins: tuple[Archive, ...] = ()

    @property
    def version(self) -> str:
        """The server's version."""
        return VERSIONS[self.kind]

    @property
    def archives(self) -> tuple[Archive, ...]:
        """Every file to fetch, each once."""
        jars = [jar for module in self.modules for jar in module.jars]
        return tuple(dict.fromkeys([self.server, *jars, *self.plugins]))


def _opensearch_jar(name: str, sha256: str) -> Archive:
    return Archive(f"org.opensearch.plugin:{name}:2.19.1:jar", sha256)


def _opensearch_plugin(name: str, sha256: str) -> Archive:
    return Archive(f"org.opensearch.plugin:{name}:2.19.1.0:zip", sha256)


def _asm(name: str, sha256: str) -> Archive:
    return Archive(f"org.ow2.asm:{name}:9.7:jar", sha256)


_PAINLESS = Module(
    name="lang-painless",
    class_name="org.opensearch.painless.PainlessPlugin",
    jars=(
        _opensearch_jar("lang-painless", "3cf5e02efa40ff5b88e74e1ab66a0bc462de3509fab4a6a4ffe90b8d13777a9a"),
        _opensearch_jar(
            "opensearch-scripting-painless-spi", "c2598797a5f6f897ce7e8d05f593ff96de3fbc56c52f299d63cddcae41556dda"
        ),
        Archive(
            "org.antlr:antlr4-runtime:4.13.1:jar", "54665d2838cc66458343468efc539e454fc95b46a8a04b13c6ac43fc9be63505"
        ),
        _asm("asm", "adf46d5e34940bdf148ecdd26a9ee8eea94496a72034ff7141066b3eea5c4e9d"),
        _asm("asm-util", "37a6414d36641973f1af104937c95d6d921b2ddb4d612c66c5a9f2b13fc14211"),
        _asm("asm-tree", "62f4b3bc436045c1acb5c3ba2d8ec556ec3369093d7f5d06c747eb04b56d52b1"),
        _asm("asm-commons", "389bc247958e049fc9a0408d398c92c6d370c18035120395d4cba1d9d9304b7a"),
        _asm("asm-analysis", "7bc6bcbc21379948a0c8c467fb0f864206e5b818f6bc0b546872f5c9f941556f"),
    ),
    permissions=("createClassLoader", "getClassLoader"),
)
_ANALYSIS = Module(
    name="analysis-common",
    class_name="org.opensearch.analysis.common.CommonAnalysisPlugin",
    jars=(_opensearch_jar("analysis-common", "13fdc1071af42946b13153a62491a5e9b0ad214d44f7c8153d3afef60f558821"),),
    extends="lang-painless",
)
_MAPPERS = Module(
    name="mapper-extras",
    class_name="org.opensearch.index.mapper.MapperExtrasPlugin",
    jars=(_opensearch_jar("mapper-extras-client", "93e85f305ddc3070fea5b83cc8d962bdcd30df20638352b02cf57276cc2bc5d5"),),
)
_REINDEX = Module(
    name="reindex",
    class_name="org.opensearch.index.reindex.ReindexPlugin",
    jars=(
        _opensearch_jar("reindex-client", "eb2056ee54ac367f8820d5c13fa5cea2d10bb492b01f4d1a15a6dce163bf82ce"),
        Archive(
            "org.opensearch:opensearch-ssl-config:2.19.1:jar",
            "30fe6a20a08004044be90abdf0e711313b7dfe2e5c7b12ac32498ae8e1cae927",
        ),
        Archive(
            "org.opensearch.client:opensearch-rest-client:2.19.1:jar",
            "6ab691dc6cb2c12802bb9024df3379bd1779a2b626d3bd7b27ed5f974cbc1708",
        ),
        Archive(
            "org.apache.httpcomponents:httpclient:4.5.14:jar",
            "c8bc7e1c51a6d4ce72f40d2ebbabf1c4b68bfe76e732104b04381b493478e9d6",
        ),
        Archive(
            "org.apache.httpcomponents:httpcore:4.4.16:jar",
            "6c9b3dd142a09dc468e23ad39aad6f75a0f2b85125104469f026e52a474e464f",
        ),
        Archive(
            "org.apache.httpcomponents:httpasyncclient:4.1.5:jar",
            "0c1877489a9d1ba4fa50f6cfcab11d1123618858cb31d56afaab5afdd5064d99",
        ),
        Archive(
            "org.apache.httpcomponents:httpcore-nio:4.4.16:jar",
            "4018736ede2d321034e8517ea90baefb31831a8608afccc446d8a699fb1d00d4",
        ),
        Archive(
            "commons-logging:commons-logging:1.2:jar",
            "daddea1ea0be0f56978ab3006b8ac92834afeefbd9b7e4e6316fca57df0fa636",
        ),
    ),
)

ELASTICSEARCH = Recipe(
    kind="elasticsearch",
    server=Archive(
        "org.elasticsearch.distribution.integ-test-zip:elasticsearch:8.19.0:zip",
        "14833b2d86c30656901f92049f81fb5777a8e4545413c8656cd1a21b55173033",
    ),
)
OPENSEARCH = Recipe(
    kind="opensearch",
    server=Archive(
        "org.opensearch.distribution.integ-test-zip:opensearch:2.19.1:zip",
        "af7152d8b7f6f1cee09d47276b32b70479fe6dd8cdbb61213f84eb7f8098b261",
    ),
    modules=(_PAINLESS, _ANALYSIS, _MAPPERS, _REINDEX),
    plugins=(
        _opensearch_plugin(
            "opensearch-job-scheduler", "a54e12582b88a4c173d6e58b16fbc609df12a04eff010ae30396905a1a882bf6"
        ),
        _opensearch_plugin("opensearch-knn", "eab8c9818865bc035212eab5068cdacae164baa09d4c152f49b736d6f6b0e85c"),
        _opensearch_plugin("opensearch-ml-plugin", "2324234d81109dcb2c488da5a6b2034cc0f78d9d08e40ce49ba59fc423a5df5f"),
        _opensearch_plugin("neural-search", "b17ca1d774692902c58cbae102bf463970740c31d81446866e8eabd336e285aa"),
        _opensearch_plugin("opensearch-security", "94a04f12ac6033902209fac1e4e512618d45beee604bbf0e42c3ed79c55220cf"),
    ),
)
RECIPES: dict[Kind, Recipe] = {"elasticsearch": ELASTICSEARCH, "opensearch": OPENSEARCH}
