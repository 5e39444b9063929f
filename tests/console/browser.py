#!/usr/bin/env python3
"""The console in a real Chromium: screenshots into target/console, and what an operator does by keyboard alone.

Usage: browser.py STAGE SCREENSHOTS, STAGE being the program built from stage.rs."""

import json
import re
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

STAGE, SHOTS = sys.argv[1], Path(sys.argv[2])
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


def looks(driver, at, accounts):
    """Every size in every light, and that nothing moves while the figures change."""
    open_console(driver, at["console"])
    for size in SIZES:
        for scheme in ["dark", "light"]:
            view(driver, size, scheme)
            time.sleep(1.5)
            fits(driver)
            shoot(driver, f"{accounts}-{size}-{scheme}")
    view(driver, "desktop", "light")
    driver.execute_script("""
        window.shift = 0;
        new PerformanceObserver((list) => list.getEntries().forEach((one) => shift += one.value)).observe({type: "layout-shift"});
        window.long = 0;
        new PerformanceObserver((list) => list.getEntries().forEach((one) => long = Math.max(long, one.duration))).observe({type: "longtask"})""")
    time.sleep(6)
    shift, longest = driver.execute_script("return [shift, long]")
    print(f"{accounts} accounts: layout shift {shift:.4f} and longest task {longest:.0f} ms in 6 s of refreshing")
    assert shift < 0.01, shift


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
    said(driver, "Nothing was changed: the token is wrong")
    shoot(driver, "wrong-token")
    press(at["token"], Keys.ENTER)
    said(driver, "acct-2 is drained: it takes no new requests")
    until("drained", lambda: status(at, "acct-2") == "drained")
    until("its button", lambda: focused()[:2] == ["acct-2", "Undrain"])
    time.sleep(1.2)
    shoot(driver, "drained-by-keyboard")
    press(Keys.SPACE)
    said(driver, "acct-2 takes requests again")
    assert status(at, "acct-2") != "drained"


def plain_words(driver, at):
    """Wrong input gets a sentence, and changes nothing."""
    share, session, which = driver.find_elements(By.CSS_SELECTOR, "main form")
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
    _, session, which = driver.find_elements(By.CSS_SELECTOR, "main form")

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
    for size in SIZES:
        view(driver, size, "light")
        fits(driver)
        shoot(driver, f"waiting-{size}")
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
    driver.find_element(By.CSS_SELECTOR, "select").send_keys("load")
    time.sleep(1.5)
    assert rows()[0] != "acct-1"


def main():
    SHOTS.mkdir(parents=True, exist_ok=True)
    with browser() as driver:
        with stage(3, 30) as at:
            time.sleep(3)
            looks(driver, at, 3)
            keyboard(driver, at)
            plain_words(driver, at)
            waits(driver, at)
            read_only(driver, at)
            hostile(driver, at)
        with stage(6, 60) as at:
            open_console(driver, at["console"])
            driver.find_element(By.CSS_SELECTOR, "#key").click()
            ActionChains(driver).send_keys(at["token"], Keys.ENTER).perform()
            driver.find_elements(By.CSS_SELECTOR, "main .do button")[6].click()
            view(driver, (900, 800), "light")
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
