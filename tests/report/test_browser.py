"""The page in a real browser: it draws, says nothing, asks for nothing, and answers keys, pointer and choices."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from babygpt.report.live import LiveRuns, bound
from babygpt.report.verb import report
from babygpt.settings import ReportSettings
from babygpt.training.alive import alone_in
from browser import Browser
from run_folders import lines, make_run, write_lines

pytestmark = pytest.mark.browser

HOSTILE = "</script><script>document.title='broken'</script><img src='http://example.org/x.png'>"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    one = make_run(folder / "one", sample=HOSTILE)
    other = make_run(folder / "two <b>", steps=3000, lr=0.5, sources=("p", HOSTILE))
    killed = [dict(line) for line in lines(60)]
    killed[-2]["tokens_per_second"] = None
    killed[30] |= {"spike": True, "train_loss": 50.0}
    write_lines(make_run(folder / "three", planned=90) / "metrics.jsonl", iter(killed))
    bare = make_run(folder / "bare")
    (bare / "metrics.jsonl").write_text("")
    runs = {"one": (one,), "many": (one, other, folder / "three"), "bare": (bare,)}
    found = {}
    for name, paths in runs.items():
        found[name] = folder / f"{name}.html"
        report(ReportSettings(tuple(map(str, paths)), str(found[name])))
    return found


LOOKS = [(1100, False), (1100, True), (390, False)]


@pytest.mark.parametrize("name", ["one", "many", "bare"])
@pytest.mark.parametrize(("width", "dark"), LOOKS)
def test_it_draws_and_keeps_to_itself(
    browser: Browser, pages: dict[str, Path], name: str, width: int, dark: bool
) -> None:
    browser.open(pages[name], width=width, dark=dark)
    assert browser.evaluate("document.documentElement.dataset.ready") == "yes"
    assert browser.problems == []
    assert browser.requests == [pages[name].as_uri()]
    assert "broken" not in browser.evaluate("document.title")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    drawn = browser.evaluate(
        "[...document.querySelectorAll('figure:not([hidden])')].map(f => f.dataset.kind)"
    )
    expected = {"one": ["loss", "lr", "grad_norm", "speed"], "bare": []}
    assert drawn == expected.get(name, ["loss", "sources", "lr", "grad_norm", "speed"])
    if drawn:
        assert ink(browser) > 200  # pixels that are no background: the curve of a chart hundreds wide
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")


def ink(browser: Browser) -> int:
    """Pixels of the first chart in a run's colour."""
    return int(
        browser.evaluate(
            """(() => {
              const canvas = document.querySelector('figure[data-kind=loss] canvas');
              const css = getComputedStyle(document.documentElement);
              const colours = [0, 1, 2].map(n => css.getPropertyValue('--c' + n).trim());
              const wanted = colours.map(c => [1, 3, 5].map(i => parseInt(c.slice(i, i + 2), 16)));
              const d = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
              let n = 0;
              for (let i = 0; i < d.length; i += 4)
                n += d[i + 3] > 128 && wanted.some(c => c.every((w, k) => Math.abs(w - d[i + k]) < 24));
              return n; })()"""
        )
    )


def readout(browser: Browser, kind: str = "loss") -> str:
    return str(browser.evaluate(f"document.querySelector('figure[data-kind={kind}] .readout').textContent"))


def test_keys_move_and_zoom_in_every_chart(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["one"])
    browser.evaluate("document.querySelector('figure[data-kind=loss] .chart').focus()")
    browser.press("Home")
    assert readout(browser).startswith("step 0validation") or "step 0" in readout(browser)
    for _ in range(10):
        browser.press("ArrowRight")
    assert "step 10" in readout(browser)
    assert "perplexity" in readout(browser)
    assert "step 10" in readout(browser, "lr")
    before = browser.evaluate("document.querySelector('figure[data-kind=lr] canvas').toDataURL()")
    browser.press("+")
    after = browser.evaluate("document.querySelector('figure[data-kind=lr] canvas').toDataURL()")
    assert after != before
    browser.press("0")
    assert browser.evaluate("document.querySelector('figure[data-kind=lr] canvas').toDataURL()") == before
    browser.press("End")
    assert "step 40" in readout(browser)
    assert browser.problems == []


def test_the_pointer_tells_and_dragging_zooms(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["one"])
    box = browser.evaluate("document.querySelector('.u-over').getBoundingClientRect().toJSON()")
    x, y, width, height = (box[name] for name in ("x", "y", "width", "height"))
    browser.mouse("mouseMoved", x + width / 2, y + height / 2)
    assert "step 20" in readout(browser)
    before = browser.evaluate("document.querySelector('figure[data-kind=speed] canvas').toDataURL()")
    browser.mouse("mousePressed", x + width / 4, y + height / 2)
    browser.mouse("mouseMoved", x + width / 2, y + height / 2)
    browser.mouse("mouseReleased", x + width / 2, y + height / 2)
    assert browser.evaluate("document.querySelector('figure[data-kind=speed] canvas').toDataURL()") != before
    assert browser.problems == []


def test_axes_smoothing_runs_and_colours_can_be_chosen(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["many"])
    browser.evaluate("document.querySelector('input[value=tokens]').click()")
    assert readout(browser).startswith("tokens 300k")
    browser.evaluate("document.querySelector('input[value=seconds]').click()")
    assert readout(browser).startswith("time 5:00")
    browser.evaluate("document.querySelector('input[name=run][value=\"1\"]').click()")
    assert "two" not in readout(browser)
    assert browser.evaluate("document.querySelector('figure[data-kind=sources]').hidden") is True
    browser.evaluate(
        "(s => { s.value = 0; s.dispatchEvent(new Event('input')) })(document.querySelector('#smoothing'))"
    )
    assert browser.evaluate("document.querySelector('#smoothed').textContent") == "0.00"
    browser.evaluate("document.querySelector('#log').click()")
    browser.evaluate("document.querySelector('input[value=dark]').click()")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
    assert browser.problems == []
    assert browser.requests == [pages["many"].as_uri()]


def test_a_live_page_shows_new_points_without_a_reload(browser: Browser, tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", planned=200)
    every = list(lines(200))
    write_lines(run / "metrics.jsonl", iter(every[:40]))
    with bound(LiveRuns([run], 1000), None) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        with alone_in(run):
            browser.open(address, width=390)
            assert "Now" in browser.evaluate("document.getElementById('part-reached').textContent")
            assert browser.evaluate("document.documentElement.scrollWidth") <= 390
        browser.open(address)
        browser.evaluate("window.stays = 1; document.querySelector('input[value=dark]').click()")
        assert "step 36" in readout(browser)
        with alone_in(run):
            now = "document.getElementById('part-reached').textContent"
            waited_for(browser, now, "1,000 tokens/s, 50% of 20 GFLOP/s (measured)")
            assert "1.01 GiB of 16.00 GiB" in browser.evaluate(now)
            assert browser.violations() == []
        write_lines(run / "metrics.jsonl", iter([*every, {"step": 200, "train_loss": 50.0, "spike": True}]))
        waited_for(
            browser, "document.querySelector('figure[data-kind=loss] .readout').textContent", "step 200"
        )
        assert "finished" in browser.evaluate("document.getElementById('part-reached').textContent")
        assert "spikes of the loss" in browser.evaluate(
            "document.getElementById('part-run0-events').textContent"
        )
        assert browser.evaluate("window.stays") == 1
        assert browser.evaluate("document.getElementById('live').textContent").startswith("Live: ")
        assert browser.problems == []
        assert set(browser.requests) <= {address, f"{address}data", f"{address}favicon.ico"}
        server.shutdown()
    waited_for(browser, "document.getElementById('live').textContent", "Not live since ")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"


def test_new_points_take_no_stretch_out_of_the_hand(browser: Browser, tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", planned=200)
    every = list(lines(200))
    write_lines(run / "metrics.jsonl", iter(every[:40]))
    with bound(LiveRuns([run], 1000), None) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        browser.open(f"http://127.0.0.1:{server.server_address[1]}/")
        browser.evaluate("document.addEventListener('newcurves', () => { window.came = 'yes'; })")
        x, y, width = browser.evaluate(
            "(() => { const r = document.querySelector('.u-over').getBoundingClientRect();"
            " return [r.x, r.y + r.height / 2, r.width]; })()"
        )
        browser.mouse("mouseMoved", x + 0.25 * width, y)
        browser.mouse("mousePressed", x + 0.25 * width, y)
        browser.mouse("mouseMoved", x + 0.4 * width, y)
        write_lines(run / "metrics.jsonl", iter(every))
        waited_for(browser, "window.came", "yes")
        browser.mouse("mouseMoved", x + 0.5 * width, y)
        browser.mouse("mouseReleased", x + 0.5 * width, y)
        drawn = "+document.querySelector('figure[data-kind=loss] .chart').dataset.points > 100"
        waited_for(browser, drawn, "True")
        browser.mouse("mouseMoved", x + 0.9 * width, y)
        shown = "document.querySelector('figure[data-kind=loss] .readout').textContent"
        step = int(browser.evaluate(shown).removeprefix("step ").split("training")[0])
        # From 9 to 18 of 36 steps; it would end at 14, where the pointer was as the new points came.
        assert 16 <= step <= 18, "the stretch is the one that was dragged across"
        server.shutdown()


def test_another_page_at_the_same_port_is_shown_as_itself(browser: Browser, tmp_path: Path) -> None:
    one, other = make_run(tmp_path / "one"), make_run(tmp_path / "other")
    with bound(LiveRuns([one], 1000), None) as server:
        port = server.server_address[1]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        browser.open(f"http://127.0.0.1:{port}/")
        server.shutdown()
    with bound(LiveRuns([other], 1000), port) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        waited_for(browser, "document.querySelector('h1').textContent", "other")
        server.shutdown()


def waited_for(browser: Browser, code: str, text: str) -> None:
    until = time.monotonic() + 20
    while text not in str(found := browser.evaluate(code)):
        assert time.monotonic() < until, found
        time.sleep(0.1)


@pytest.mark.parametrize("name", ["one", "many", "bare"])
@pytest.mark.parametrize(("width", "dark"), LOOKS)
def test_axe_finds_nothing(
    browser: Browser, pages: dict[str, Path], name: str, width: int, dark: bool
) -> None:
    browser.open(pages[name], width=width, dark=dark)
    assert browser.violations() == []
