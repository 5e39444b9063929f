#!/usr/bin/env python3
"""The console in a real Chromium: screenshots into target/console, what an operator does by keyboard alone, and the rules of axe.

Usage: browser.py STAGE SCREENSHOTS AXE, STAGE being the program built from stage.rs, AXE the file axe.min.js."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.chrome.service import Service

STAGE, SHOTS, AXE = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
SIZES = {"phone": (390, 844), "desktop": (1280, 900)}


@contextmanager
def stage(accounts, lanes):
    process = subprocess.Popen([STAGE, str(accounts), str(lanes)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(30)


@contextmanager
def browser():
    options = webdriver.ChromeOptions()
    for argument in ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--lang=en"]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(service=Service("/usr/bin/chromedriver"), options=options)
    try:
        yield driver
        # What the console's own policy forbids, and every script error, stands here. Statuses of refused changes do too.
        wrong = [line for line in driver.get_log("browser") if "status of" not in line["message"]]
        assert not wrong, wrong
    finally:
        driver.quit()


def view(driver, size, scheme):
    width, height = SIZES.get(size, size)
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                           {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia",
                           {"features": [{"name": "prefers-color-scheme", "value": scheme}]})


def until(what, look, patience=15):
    end = time.monotonic() + patience
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.05)


def text(driver, query):
    return driver.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", query)


def said(driver, words):
    until(f"{words!r} in {text(driver, '#notice')!r}", lambda: words in text(driver, "#notice"))


def open_console(driver, url):
    driver.get(url)
    until("live", lambda: text(driver, "#live").startswith("live"))
    until("rows", lambda: driver.find_elements(By.CSS_SELECTOR, "main tbody tr"))


def shoot(driver, name):
    driver.save_screenshot(str(SHOTS / f"{name}.png"))


def fits(driver):
    wide = driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1], f"it is {wide[0]} px wide on a screen of {wide[1]}"


def status(at, account):
    pools = json.load(urllib.request.urlopen(at["console"] + "api/status"))["pools"]
    return next(one for one in pools[0]["accounts"] if one["id"] == account)["state"]


def lease(at):
    """What a request held, when it was given a slot."""
    request = urllib.request.Request(f"http://{at['envoy']}/echo", headers={"x-session-id": "alice"})
    try:
        return json.load(urllib.request.urlopen(request))["headers"].get("x-slotgate-lease")
    except urllib.error.HTTPError:
        return None


def redis(at, *words):
    """What Redis answers to one command, as it comes."""
    host, port = at["redis"].rsplit(":", 1)
    words = [word.encode() for word in words]
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
        return connection.recv(65536).decode()


def accessible(driver, name):
    """No rule of axe is broken seriously, in the whole page or in the dialog that covers it."""
    driver.execute_script(AXE.read_text())
    broken = driver.execute_async_script("""
        const [done] = arguments, scope = document.querySelector("dialog[open]") ?? document;
        axe.run(scope, {resultTypes: ["violations"]}).then(({violations}) => done(violations.map((one) =>
            [one.impact, one.id, one.help, one.nodes.length, one.nodes[0].html, one.nodes[0].failureSummary])))""")
    serious = [one for one in broken if one[0] in ("serious", "critical")]
    assert not serious, (name, serious)
    print(f"axe, {name}: nothing serious or critical" + "".join(f"; {impact}: {rule}" for impact, rule, *_ in broken))


def looks(driver, at, accounts):
    """Every size in every light, and that nothing moves while the figures change."""
    open_console(driver, at["console"])
    for size in SIZES:
        for scheme in ["dark", "light"]:
            view(driver, size, scheme)
            time.sleep(1.5)
            fits(driver)
            shoot(driver, f"{accounts}-{size}-{scheme}")
            accessible(driver, f"{accounts} accounts, {size}, {scheme}")
    driver.execute_script("""
        window.shift = 0;
        window.moved = [];
        new PerformanceObserver((list) => list.getEntries().forEach((one) => {
            shift += one.value;
            moved.push(...one.sources.map(({node, previousRect: from, currentRect: to}) =>
                `${(node?.outerHTML ?? node?.textContent ?? "").slice(0, 90)} ${from.x},${from.y} > ${to.x},${to.y}`));
        })).observe({type: "layout-shift"});
        window.long = 0;
        new PerformanceObserver((list) => list.getEntries().forEach((one) => long = Math.max(long, one.duration))).observe({type: "longtask"})""")
    for size in SIZES:
        view(driver, size, "light")
        time.sleep(1.5)
        driver.execute_script("shift = long = 0; moved = []")
        time.sleep(6)
        shift, longest = driver.execute_script("return [shift, long]")
        print(f"{accounts} accounts, {size}: layout shift {shift:.4f} and longest task {longest:.0f} ms in 6 s of refreshing")
        assert shift < 0.001, (shift, driver.execute_script("return moved"))


def corners(driver, query):
    """How many corners the pictures have that such nodes show: none, before anything is known."""
    return driver.execute_script("""
        return [...document.querySelectorAll(arguments[0])].map((node) =>
            (getComputedStyle(node).clipPath.match(/polygon\\((.*)\\)/)?.[1].split(",") ?? []).length)""", query)


def history(driver, at):
    """Each figure gets a point for each answer, of the pool and of each account; rates are a second's."""
    view(driver, "desktop", "light")
    open_console(driver, at["console"])
    until("points", lambda: all(found > 7 for found in corners(driver, "main .chart i")), 20)
    assert len(corners(driver, ".trends .chart i")) == 6 and len(corners(driver, "tbody .chart i")) == 3
    first = corners(driver, "main .chart i")
    time.sleep(3)
    assert all(now > before for now, before in zip(corners(driver, "main .chart i"), first)), first
    figures = dict(driver.execute_script("""
        return [...document.querySelectorAll(".trends > div")].map((node) => ["span", "strong"].map((part) => node.querySelector(part).innerText))"""))
    assert list(figures) == ["used", "waiting", "longest wait", "granted", "refused", "fallbacks"], figures
    assert re.fullmatch(r"[\d.]+/s", figures["granted"]) and figures["granted"] != "0/s", figures
    until("the accounts' rates", lambda: re.search(r"\d+ / \d+\n[\d.]+/s", text(driver, "main tbody")))
    until("this Envoy's rate", lambda: re.match(r"[\d.]+/s requests over the last minute", text(driver, "#counts")))
    assert re.search(r"\d+ of 28 slots used, \d+ free · .* · 3 accounts: ", text(driver, "main .sum")), text(driver, "main .sum")


FULLNESS = """
    const real = window.fetch, used = arguments[0];
    window.fetch = async (...request) => {
        const answer = await (await real(...request)).json();
        for (const account of answer.pools[0].accounts) {
            account.used = Math.round(account.max_concurrency * used);
            account.state = used < 1 ? "free" : "full";
        }
        return Response.json(answer);
    }"""


def fullness(driver, at):
    """The pool's bar says by its colour how full the pool is."""
    tones = []
    for used, expected in [(0.5, "roomy"), (0.8, "busy"), (1, "full")]:
        open_console(driver, at["console"])
        driver.execute_script(FULLNESS, used)
        bar = "document.querySelector('main p.bar')"
        until(expected, lambda: driver.execute_script(f"return {bar}.className") == f"bar {expected}")
        tones.append(driver.execute_script(f"return getComputedStyle({bar}).getPropertyValue('--tone') || 'free'"))
    assert len(set(tones)) == 3, tones


REFUSALS = """
    const real = window.fetch, began = Date.now();
    window.fetch = async (...request) => {
        const answer = await (await real(...request)).json();
        answer.counters["account.requests;pool=demo;account=acct-1"] ??= 1;
        answer.counters["account.refused;pool=demo;account=acct-1"] = Math.round((Date.now() - began) / 500);
        return Response.json(answer);
    }"""


def refusals(driver, at):
    """An account that refuses requests says how many a minute. The stage has no failover: its counter is put in."""
    open_console(driver, at["console"])
    driver.execute_script(REFUSALS)
    until("refusals", lambda: re.search(r"refused 1[0-4]\d/min", text(driver, "main tbody tr .state")), 20)
    for size in SIZES:
        view(driver, size, "light")
        time.sleep(1.2)
        fits(driver)
        shoot(driver, f"refused-{size}")
    assert "refused" not in text(driver, "main tbody tr:nth-child(2) .state")


def phone(driver, at):
    """On a phone the accounts come next after the sum and the queue, and the controls are folded; on a desktop both are there."""
    places = lambda *queries: driver.execute_script(
        "return arguments[0].map((query) => document.querySelector(query).getBoundingClientRect().top)", list(queries))
    tab_order = lambda: driver.execute_script("""
        return document.querySelector(".accounts").compareDocumentPosition(document.querySelector(".more")) & Node.DOCUMENT_POSITION_FOLLOWING
            ? "accounts first" : "accounts last";""")
    is_open = lambda: driver.execute_script("return document.querySelector('.controls').open")
    view(driver, "phone", "dark")
    open_console(driver, at["console"])
    tops = places(".sum", "p.bar", ".queue", ".accounts", ".more")
    assert tops == sorted(tops) and tops[3] - tops[2] < 50, tops
    assert tab_order() == "accounts first" and not is_open()
    assert tops[3] < 300, tops
    driver.find_element(By.CSS_SELECTOR, ".jump").send_keys(Keys.ENTER)
    until("the changes focused", lambda: driver.execute_script("return document.activeElement.matches('.log summary')"))
    driver.find_element(By.CSS_SELECTOR, ".controls summary").send_keys(Keys.ENTER)
    until("the controls", is_open)
    fits(driver)
    time.sleep(0.3)
    shoot(driver, "phone-controls")
    accessible(driver, "controls on a phone")
    view(driver, "desktop", "dark")
    until("as on a desktop", lambda: tab_order() == "accounts last" and is_open())
    # Edit leads to the form, even if the controls are folded.
    driver.find_element(By.CSS_SELECTOR, ".controls summary").click()
    assert not is_open()
    driver.find_elements(By.CSS_SELECTOR, "main .do button")[2].click()
    assert is_open() and driver.execute_script("return document.activeElement.closest('form').elements[0].value") == "acct-1"


def frozen(driver, at):
    """While Redis is away what was shown stays, without colour, and ages; this Envoy goes on, and says what the trouble is."""
    view(driver, "desktop", "light")
    open_console(driver, at["console"])
    driver.execute_script("document.querySelector('.log').open = true")
    is_stale = lambda: driver.execute_script("return document.body.classList.contains('stale')")
    color = lambda: driver.execute_script("return getComputedStyle(document.querySelector('main tbody th')).color")
    age = lambda query: int(re.search(r"(\d+) s ago", text(driver, query))[1])
    post(at, "api/drain", pool="demo", account="acct-1", by="night shift")
    post(at, "api/undrain", pool="demo", account="acct-1", by="night shift")
    until("the change", lambda: re.match(r"Changed \d+ s ago by night shift: acct-1 takes requests again", text(driver, ".log summary")))
    time.sleep(3)
    colored, since = color(), age(".log summary")
    counted = corners(driver, ".granted .chart i, .fallbacks .chart i")
    os.kill(at["pids"][1], signal.SIGSTOP)
    try:
        until("stale", is_stale)
        until("its age", lambda: re.search(r"Redis .*; shown as of [3-9] s ago", text(driver, "#live")))
        until("trouble", lambda: "Without Redis: " in text(driver, "#redis"))
        until("this Envoy's errors", lambda: re.search(r"traditional: .*/min\s+\d s ago", text(driver, "#errors")), 20)
        until("the fallbacks", lambda: text(driver, ".fallbacks strong") not in ("0/s", "–"))
        assert color() != colored, colored
        assert len(driver.find_elements(By.CSS_SELECTOR, "main .do")) == 3
        before, shown = (age("#live"), age(".log summary")), text(driver, ".accounts")
        time.sleep(2.2)
        assert text(driver, ".accounts") == shown
        assert age("#live") >= before[0] + 2 and age(".log summary") >= before[1] + 2 > since, before
        more = corners(driver, ".granted .chart i, .fallbacks .chart i")
        assert all(now > then for now, then in zip(more, counted)), (counted, more)
        for size in SIZES:
            for scheme in ["dark", "light"]:
                view(driver, size, scheme)
                time.sleep(0.5)
                fits(driver)
                shoot(driver, f"frozen-{size}-{scheme}")
                accessible(driver, f"Redis frozen, {size}, {scheme}")
        view(driver, (1280, 1500), "light")
        time.sleep(0.5)
        shoot(driver, "frozen-all")
    finally:
        os.kill(at["pids"][1], signal.SIGCONT)
    view(driver, "desktop", "light")
    until("live again", lambda: not is_stale() and text(driver, "#live") == "live")
    assert color() == colored and text(driver, "#redis") == "Redis answers."
    until("a gap", lambda: re.search(r"100%, [\d.]+% 100%", driver.execute_script(
        "return document.querySelector('.trends .used .chart i').style.clipPath")))


def keyboard(driver, at):
    """Drains an account and lets it go again with Tab, Space, Enter and letters alone; each stop can be seen."""
    view(driver, "desktop", "dark")
    driver.execute_script("sessionStorage.clear()")
    open_console(driver, at["console"])
    press = lambda *keys: ActionChains(driver).send_keys(*keys).perform()
    focused = lambda: driver.execute_script("""const e = document.activeElement, o = getComputedStyle(e);
        return [e.closest("tr")?.cells[0].innerText ?? "", e.innerText || e.tagName, o.outlineStyle !== "none" && parseFloat(o.outlineWidth) >= 2]""")
    stops = []
    for _ in range(60):
        press(Keys.TAB)
        account, name, visible = focused()
        stops.append((account, name))
        assert visible, f"the focus on {name} can't be seen"
        if (account, name) == ("acct-2", "Drain"):
            break
    assert stops[-1] == ("acct-2", "Drain"), stops
    print("keyboard:", " > ".join(f"{account} {name}".strip() for account, name in stops))
    press(Keys.ENTER)
    until("the dialog for the token", lambda: driver.execute_script("return document.querySelector('#login').open"))
    assert "needs the token" in text(driver, "#wrong")
    assert status(at, "acct-2") != "drained"
    press("wrong", Keys.ENTER)
    until("the wrong token", lambda: "The token is wrong." in text(driver, "#wrong"))
    # It was tested alone: the dialog stays, and nothing is kept or tried with it.
    assert driver.execute_script("return document.querySelector('#login').open && sessionStorage.length") == 0
    time.sleep(0.3)
    shoot(driver, "wrong-token")
    accessible(driver, "the token's dialog")
    press(at["token"], Keys.TAB, "anna\u200b", Keys.ENTER)
    said(driver, "acct-2 is drained: it takes no new requests")
    until("who did it", lambda: re.match(r"Changed \d+ s ago by anna.*: acct-2 drained", text(driver, ".log summary")))
    until("drained", lambda: status(at, "acct-2") == "drained")
    until("its button", lambda: focused()[:2] == ["acct-2", "Undrain"])
    time.sleep(1.2)
    shoot(driver, "drained-by-keyboard")
    press(Keys.SPACE)
    said(driver, "acct-2 takes requests again")
    assert status(at, "acct-2") != "drained"


def plain_words(driver, at):
    """Wrong input gets a sentence, and changes nothing."""
    share, session, which, _ = driver.find_elements(By.CSS_SELECTOR, "main form")
    field = share.find_element(By.TAG_NAME, "input")
    for typed, words in [("101", "is not in 0..=100"), ("12.345", "more than two decimals"), ("ten", "a number from 0 to 100"), ("", "a number from 0 to 100")]:
        field.clear()
        field.send_keys(typed, Keys.ENTER)
        said(driver, words)
        assert text(driver, "#notice").startswith("Nothing was changed"), text(driver, "#notice")
    shoot(driver, "wrong-percentage")
    field.clear()
    field.send_keys("12.5", Keys.ENTER)
    said(driver, "12.5 %, was as configured")
    until("the share", lambda: "12.5 % asked by an operator" in text(driver, ".gray"))
    share.find_elements(By.TAG_NAME, "button")[1].click()
    said(driver, "as configured, was 12.5 %")
    session.find_element(By.TAG_NAME, "input").send_keys("alice")
    unbind, explain = session.find_elements(By.TAG_NAME, "button")
    explain.click()
    until("explained", lambda: driver.execute_script("return document.querySelector('#why').open"))
    assert "The session is bound to acct-" in text(driver, "#why")
    time.sleep(0.3)
    shoot(driver, "explain")
    accessible(driver, "an explanation")
    ActionChains(driver).send_keys(Keys.ESCAPE).perform()
    unbind.click()
    said(driver, "no longer bound to acct-")
    unbind.click()
    said(driver, "was not bound")
    field = which.find_element(By.TAG_NAME, "input")
    field.send_keys("nobody's", Keys.ENTER)
    said(driver, "no worker remembers request")
    field.clear()
    field.send_keys(until("a lease", lambda: lease(at)), Keys.ENTER)
    until("told", lambda: driver.execute_script("return document.querySelector('#why').open"))
    assert "It took a slot of acct-" in text(driver, "#why"), text(driver, "#why")
    time.sleep(0.3)
    shoot(driver, "which-way")
    ActionChains(driver).send_keys(Keys.ESCAPE).perform()


HOSTILE = '<img src="x" onerror="document.title=1"><b>\x1b]0;y\x07\x9b31m\n\u202e\u2066\u200b\u2028\ufeff'
HARMLESS = ('<img src="x" onerror="document.title=1"><b>' +
            r"\u{1b}]0;y\u{7}\u{9b}31m\u{a}\u{202e}\u{2066}\u{200b}\u{2028}\u{feff}")


# The console's answers with a hostile id for the first account: the ledger lets none through.
REPLACE_IDS = """
    const real = window.fetch, id = arguments[0];
    window.fetch = async (...request) => {
        const reply = await real(...request), answer = await reply.json();
        for (const part of [answer, ...(answer.pools ?? [])]) if (part.accounts) part.accounts[0].id = id;
        return Response.json(answer, {status: reply.status});
    }"""


def hostile(driver, at):
    """Markup, a terminal's commands and turned text are plain text wherever they show, from Redis and from the console."""
    open_console(driver, at["console"])
    dialog = lambda: driver.execute_script("return document.querySelector('#why').open")
    close = lambda: ActionChains(driver).send_keys(Keys.ESCAPE).perform()
    texts = lambda query: driver.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((node) => node.textContent)", query)
    _, session, which, _ = driver.find_elements(By.CSS_SELECTOR, "main form")

    def harmless(name):
        shoot(driver, name)
        assert not driver.find_elements(By.CSS_SELECTOR, ":is(main, dialog, #notice, #errors) :is(img, b)")
        assert driver.title == "slotgate", driver.title
        shown = "".join(texts("body"))
        assert not re.search("[\0-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]", shown)

    # A worker's answer, put into Redis in its place.
    which.find_element(By.TAG_NAME, "input").send_keys("<img src=x>", Keys.ENTER)
    question = until("the question", lambda: re.search("([0-9a-f]{16}) request <img src=x>", redis(at, "GET", "slotgate:{demo}:question")))
    answer = {"nonce": question[1], "way": "atomic", "pool": "demo", "account": HOSTILE, "reason": HOSTILE, "waited_ms": 1, "ago_ms": 1}
    redis(at, "SET", "slotgate:{demo}:answer", json.dumps(answer), "PX", "5000")
    until("told", dialog)
    assert texts("#why h2") == ["Which way <img src=x> went"]
    assert f"It took a slot of {HARMLESS} of pool demo" in texts("#why p")[0], texts("#why p")
    harmless("hostile-answer")
    close()
    # An account's id, in its row, in what is said of it and in a dialog.
    driver.execute_script(REPLACE_IDS, HOSTILE)
    until("the hostile account", lambda: HARMLESS in texts("main tbody th"))
    harmless("hostile-account")
    driver.find_element(By.XPATH, "//main//tr[contains(th, 'onerror')]//button").click()
    said(driver, "<img")
    session.find_elements(By.TAG_NAME, "button")[1].click()
    until("explained", dialog)
    assert HARMLESS in texts("#why td")
    harmless("hostile-explained")
    # The same id in Redis: the ledger cannot read the pool, and the page says so.
    open_console(driver, at["console"])
    redis(at, "HSET", "slotgate:{demo}:accounts", HOSTILE, "8 300000 0 0")
    until("garbage", lambda: text(driver, "main .sum").startswith("It can't be read: accounts ?img"))
    assert text(driver, ".trends .used strong") == "–"
    harmless("garbage")


def post(at, path, **body):
    """A change that takes the token."""
    request = urllib.request.Request(at["console"] + path, json.dumps(body).encode(), {
        "content-type": "application/json", "authorization": f"Bearer {at['token']}"})
    return json.load(urllib.request.urlopen(request))


def waits(driver, at):
    """With every account drained requests wait, of three tenants; what holds them up over, they are served."""
    open_console(driver, at["console"])
    tenants = lambda: driver.execute_script(
        "return [...document.querySelectorAll('main .tenants tr')].map((row) => [...row.cells].map((cell) => cell.innerText))")
    accounts = [f"acct-{n}" for n in range(1, 4)]
    for account in accounts:
        post(at, "api/drain", pool="demo", account=account)
    until("some wait", lambda: re.fullmatch(r"\d+ waiting, the first for \d+ s", text(driver, "main .queue")))
    until("each tenant waits", lambda: len([name for name, what in tenants()
                                           if re.fullmatch("[0-9a-f]{16}", name) and " waiting, " in what]) == 3)
    shoot(driver, "waiting")
    assert re.search(r" slots used, 0 free · .* · 3 accounts: 3 drained", text(driver, "main .sum")), text(driver, "main .sum")
    assert driver.execute_script("return document.querySelector('main p.bar').className") == "bar full"
    until("the figures", lambda: int(text(driver, ".trends .waiting strong")) > 0)
    for size in SIZES:
        for scheme in ["dark", "light"]:
            view(driver, size, scheme)
            time.sleep(1.2)
            fits(driver)
            shoot(driver, f"waiting-{size}-{scheme}")
    driver.find_elements(By.CSS_SELECTOR, "main form")[1].find_elements(By.TAG_NAME, "button")[1].click()
    until("explained", lambda: driver.execute_script("return document.querySelector('#why').open"))
    assert re.search(r"No account can take a request now; \d+ wait already", text(driver, "#why p")), text(driver, "#why p")
    ActionChains(driver).send_keys(Keys.ESCAPE).perform()
    for account in accounts:
        post(at, "api/undrain", pool="demo", account=account)
    until("nobody waits", lambda: text(driver, "main .queue") == "nobody waits")


def read_only(driver, at):
    """Without a token no button is left that would change anything."""
    open_console(driver, at["console"])
    driver.execute_script("""
        const real = window.fetch;
        window.fetch = async (...request) => Response.json({...await (await real(...request)).json(), writable: false})""")
    until("read-only", lambda: text(driver, "#live") == "live, read-only: no token is configured")
    buttons = [button.text for button in driver.find_elements(By.TAG_NAME, "button") if button.is_displayed()]
    assert buttons == ["Explain", "Which way?"], buttons


def many(driver, at):
    """500 accounts: found by typing, and put in order."""
    rows = lambda: driver.execute_script(
        "return [...document.querySelectorAll('main .do')].map((cell) => cell.parentNode).filter((row) => !row.hidden).map((row) => row.cells[0].innerText)")
    assert len(rows()) == 500 and rows()[:3] == ["acct-1", "acct-2", "acct-3"], rows()[:3]
    find = driver.find_element(By.CSS_SELECTOR, "[type=search]")
    find.send_keys("disabled")
    assert rows() == [f"acct-{n}" for n in range(49, 501, 50)], rows()
    find.clear()
    find.send_keys("acct-12")
    assert len(rows()) == 11, rows()
    shoot(driver, "500-found")
    find.clear()
    find.send_keys(" ")
    driver.find_element(By.CSS_SELECTOR, ".finder select").send_keys("load")
    time.sleep(1.5)
    assert rows()[0] != "acct-1"


def main():
    SHOTS.mkdir(parents=True, exist_ok=True)
    with browser() as driver:
        with stage(3, 30) as at:
            time.sleep(3)
            looks(driver, at, 3)
            history(driver, at)
            fullness(driver, at)
            refusals(driver, at)
            phone(driver, at)
            keyboard(driver, at)
            plain_words(driver, at)
            waits(driver, at)
            frozen(driver, at)
            read_only(driver, at)
            hostile(driver, at)
        with stage(6, 60) as at:
            open_console(driver, at["console"])
            driver.find_element(By.CSS_SELECTOR, "#key").click()
            ActionChains(driver).send_keys(at["token"], Keys.TAB, "anna", Keys.ENTER).perform()
            until("the token taken", lambda: not driver.execute_script("return document.querySelector('#login').open"))
            driver.find_elements(By.CSS_SELECTOR, "main .do button")[6].click()
            view(driver, (900, 1000), "light")
            driver.find_element(By.CSS_SELECTOR, ".controls summary").click()
            driver.find_element(By.CSS_SELECTOR, "h1").click()
            time.sleep(8.5)
            states = lambda: text(driver, "main tbody")
            until("something of everything", lambda: all(word in states() for word in ["cooling", "full", "free"]), 120)
            shoot(driver, "readme")
        until("the loss said", lambda: "can't be reached; shown as of" in text(driver, "#live"))
        shoot(driver, "gone")
        driver.get("about:blank")
        driver.get_log("browser")
        with stage(500, 400) as at:
            time.sleep(3)
            looks(driver, at, 500)
            many(driver, at)
            # Asks no more, or the stage's end would be an error.
            driver.get("about:blank")
    print(f"OK: screenshots in {SHOTS}")


main()
