// Search from a file: browsers start no worker there, so a hidden frame runs the worker's script in its place.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.waiting = []
      const frame = document.createElement("iframe")
      frame.hidden = true
      frame.onload = () => {
        this.frame = frame.contentWindow
        this.waiting.forEach(data => this.postMessage(data))
      }
      window.addEventListener("message", event => {
        if (event.source === frame.contentWindow)
          this.dispatchEvent(new MessageEvent("message", { data: event.data }))
      })
      // The script calls postMessage(answer) and listens for "message", as in a worker.
      frame.srcdoc = `<script>
        const answer = data => parent.postMessage(data, "*")
        window.postMessage = answer
        window.importScripts = (...urls) => urls.reduce((before, url) => before.then(() => new Promise(done => {
          const script = document.createElement("script")
          script.src = url
          script.onload = script.onerror = done
          document.head.appendChild(script)
        })), Promise.resolve())
      </scr` + `ipt><script src="${url}"></scr` + `ipt>`
      document.documentElement.appendChild(frame)
    }
    postMessage(data) {
      if (this.frame)
        this.frame.dispatchEvent(new MessageEvent("message", { data }))
      else
        this.waiting.push(data)
    }
  }
}
