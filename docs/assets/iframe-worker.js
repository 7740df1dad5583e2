// The search asks a worker, and browsers start none for pages that are read from a folder (file:). There a frame that
// nobody sees stands in for it: its own window, in which the worker's script hears and sends messages as it would.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.frame.title = "search"
      document.body.append(this.frame)
      const inner = this.frame.contentWindow
      inner.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
      const script = inner.document.createElement("script")
      script.src = url
      this.started = new Promise((resolve, reject) => {
        script.onload = resolve
        script.onerror = reject
      })
      inner.document.body.append(script)
    }

    postMessage(data) {
      this.started.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })))
    }

    terminate() {
      this.frame.remove()
    }
  }
}
