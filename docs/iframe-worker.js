/* Search where pages are files. A browser starts no worker there, so the theme's search runs in a hidden frame, with
   the two messages of a worker that it uses. The plugin "offline" asks for a script of this name. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = Object.assign(document.createElement("iframe"), { hidden: true });
      this.loaded = new Promise((resolve) => {
        this.frame.onload = () => {
          const { contentWindow: inside, contentDocument: page } = this.frame;
          inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
          const src = new URL(url, location).href;
          page.head.append(Object.assign(page.createElement("script"), { src, onload: () => resolve(inside) }));
        };
      });
      document.documentElement.append(this.frame);
    }

    postMessage(data) {
      this.loaded.then((inside) => inside.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}
