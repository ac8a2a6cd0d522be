// Asks the server that the page came from for what is new, and puts it in place; what is the same is left alone.
(function () {
  "use strict";
  const EVERY = 2000, AFTER_FAILURE = 5000, PATIENCE = 30000;  // milliseconds
  const said = document.getElementById("live");
  let stamp = null, timer = null, failedAt = null;

  function say(text) {
    if (said.textContent !== text) said.textContent = text;
  }

  const clock = () => new Date().toLocaleTimeString();

  // Where the reader is in it stays: how far it is scrolled, and the focus.
  function replace(part, html) {
    const kept = [...part.querySelectorAll("[tabindex]")].map((e) => [e.scrollTop, e.scrollLeft, e === document.activeElement]);
    part.innerHTML = html;
    part.querySelectorAll("[tabindex]").forEach((e, i) => {
      if (!kept[i]) return;
      [e.scrollTop, e.scrollLeft] = kept[i];
      if (kept[i][2]) e.focus({ preventScroll: true });
    });
  }

  // At a port that is taken again another page may be served: its runs are not shown under the names of these.
  const names = (runs) => JSON.stringify(runs.map((run) => run.name));
  const ours = names(JSON.parse(document.getElementById("data").textContent).runs);

  const shown = {};
  function take(news) {
    if (names(news.runs) !== ours) {
      location.reload();
      return;
    }
    for (const [name, html] of Object.entries(news.parts)) {
      const part = document.getElementById("part-" + name);
      if (part && shown[name] !== html) {
        if (name in shown || part.innerHTML !== html) replace(part, html);
        shown[name] = html;
      }
    }
    document.dispatchEvent(new CustomEvent("newcurves", { detail: news.runs }));
  }

  async function look() {
    let wait = EVERY;
    try {
      const headers = stamp ? { "If-None-Match": stamp } : {};
      const answer = await fetch("data", { headers, cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
      if (answer.status === 200) {
        take(await answer.json());
        stamp = answer.headers.get("ETag");
      } else if (answer.status !== 304) {
        throw new Error((await answer.text()).trim());
      }
      failedAt = null;
      say("Live: new points appear by themselves.");
    } catch (error) {
      failedAt = failedAt || clock();
      wait = AFTER_FAILURE;
      const why = error instanceof TypeError || error.name === "TimeoutError" ? "the command that serves it has ended" : error.message.replace(/\.$/, "");
      say("Not live since " + failedAt + ": " + why + ".");
    }
    timer = document.hidden ? null : setTimeout(look, wait);
  }

  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && timer === null) timer = setTimeout(look, 0);
  });
  timer = setTimeout(look, EVERY);
})();
