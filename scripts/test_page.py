#!/usr/bin/env python3
"""Tests the live page in a headless Chromium. Needs Python's standard library and `chromium` on the PATH.

    cargo build && scripts/test_page.py [--binary target/debug/ringway] [--shots DIR]

Starts a balancer on free ports, sends requests through it, opens the page and checks: the ring is drawn, numbers
change, a killed replica is shown as replaced, the keyboard works, each word is explained, nothing overflows a phone, no
other host is contacted, of 50 services each can be chosen, and with --admin-token nothing is shown before the token is
entered. Screenshots (light, dark, phone) go to DIR.
"""
import argparse, base64, json, os, re, shutil, signal, socket, struct, subprocess, sys, tempfile, threading, time, urllib.request

PATIENCE = 30
TOKEN = "s3cret~token"
LARGE = "[...document.querySelectorAll('button')].filter(b => b.checkVisibility()).every(b => b.offsetHeight >= 44)"


class Page:
    """One tab, controlled over the DevTools protocol."""

    def __init__(self, port):
        targets = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json"))
        path = next(t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page").split(f":{port}", 1)[1]
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        self.reader = self.socket.makefile("rb")
        while self.reader.readline().strip():
            pass
        self.next_id, self.events = 1, []

    def send(self, text):
        data = text.encode()
        mask = os.urandom(4)
        head = b"\x81"
        if len(data) < 126:
            head += bytes([128 | len(data)])
        elif len(data) < 65536:
            head += bytes([128 | 126]) + struct.pack(">H", len(data))
        else:
            head += bytes([128 | 127]) + struct.pack(">Q", len(data))
        self.socket.sendall(head + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data)))

    def receive(self):
        message = b""
        while True:
            first, second = self.reader.read(2)
            length = second & 127
            if length == 126:
                length = struct.unpack(">H", self.reader.read(2))[0]
            elif length == 127:
                length = struct.unpack(">Q", self.reader.read(8))[0]
            message += self.reader.read(length)
            if first & 128:
                return json.loads(message)

    def call(self, method, **parameters):
        this, self.next_id = self.next_id, self.next_id + 1
        self.send(json.dumps({"id": this, "method": method, "params": parameters}))
        while True:
            answer = self.receive()
            if answer.get("id") == this:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def value(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in result:
            raise AssertionError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def until(self, what, expression):
        deadline = time.monotonic() + PATIENCE
        # A document that is still loading lacks elements.
        while not self.value(f"document.readyState !== 'loading' && ({expression})"):
            assert time.monotonic() < deadline, f"waited too long for: {what}"
            time.sleep(0.05)
        print("ok:", what)

    def key(self, key):
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if len(key) == 1 and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **text)

    def type(self, text):
        for letter in text:
            name = {"\r": "Enter"}.get(letter, letter)
            self.call("Input.dispatchKeyEvent", type="keyDown", key=name, text=letter)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=name)

    def look(self, width, height, scheme, shot):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        image = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        with open(shot, "wb") as out:
            out.write(base64.b64decode(image))
        print("shot:", shot)


def check(page, balancer, address, shots, settle):
    page.call("Runtime.enable")
    page.call("Network.enable")
    page.call("Page.enable")
    page.call("Page.navigate", url=f"http://{address}/")
    page.until("the stream is live", "document.getElementById('link')?.textContent === 'live'")
    page.until("the ring has an arc path per replica", "document.querySelectorAll('#arcs path').length === 4")
    page.until("every arc path is drawn", "[...document.querySelectorAll('#arcs path')].every(p => p.getTotalLength() > 100)")
    page.until("four replicas are up", "document.querySelectorAll('#replicas .state.up').length === 4")
    page.until("requests per second change", "Number(document.getElementById('middle').textContent.replace(/,/g, '')) > 0")
    page.until("the shares add up to 100 %",
               "Math.abs([...document.querySelectorAll('.bar i')].reduce((a, i) => a + parseFloat(i.style.width), 0) - 100) < 1")
    children = open(f"/proc/{balancer.pid}/task/{balancer.pid}/children").read().split()
    os.kill(int(children[0]), signal.SIGKILL)
    page.until("a kill and its heal are shown",
               "[...document.querySelectorAll('#numbers div')].some(d => d.textContent === 'heals1') && "
               "/healed it in/.test(document.getElementById('lines').textContent)")
    page.key("ArrowDown")
    page.until("the first arrow key selects the first replica", "document.querySelectorAll('#arcs path.on').length === 1 && "
               "document.activeElement === document.querySelector('#replicas li')")
    page.key("ArrowDown")
    page.until("the next arrow key selects the next one", "document.activeElement === document.querySelectorAll('#replicas li')[1] && "
               "document.querySelector('#arcs path.on').dataset.name === document.activeElement.dataset.name")
    page.key("Escape")
    page.until("Escape clears the selection", "document.querySelectorAll('#arcs path.on').length === 0")
    page.key("p")
    page.until("p pauses the stream", "document.getElementById('pause').getAttribute('aria-pressed') === 'true'")
    page.key("p")
    page.until("p resumes it", "document.getElementById('pause').getAttribute('aria-pressed') === 'false'")
    page.until("one service is no table", "!document.getElementById('services').checkVisibility()")
    page.until("its latency is measured", "/^\\d.*s$/.test([...document.querySelectorAll('#numbers div')]"
               ".find(d => d.firstChild.textContent === 'p99').lastChild.textContent)")
    page.until("every word has an explanation", "[...document.querySelectorAll('#numbers dt abbr')].length === 10 && "
               "[...document.querySelectorAll('abbr')].every(w => w.title.length > 10)")
    page.value("document.querySelector('summary').focus()")
    page.type("\r")
    page.until("the keyboard opens the glossary", "document.querySelector('#glossary').checkVisibility() && "
               "document.querySelectorAll('#glossary dd').length > 15")
    page.look(400, 2600, "light", os.path.join(shots, "page-words.png"))
    page.type("\r")
    page.key("Escape")
    time.sleep(settle)
    page.look(1280, 1000, "light", os.path.join(shots, "page-light.png"))
    page.look(1280, 1000, "dark", os.path.join(shots, "page-dark.png"))
    for width in (360, 320):
        page.look(width, 2000, "dark", os.path.join(shots, f"page-phone-{width}.png"))
        page.until(f"nothing overflows {width} pixels", "document.documentElement.scrollWidth <= innerWidth")
    page.until("buttons are at least 44 pixels high", LARGE)
    wrong = [e["params"] for e in page.events if e["method"] == "Runtime.exceptionThrown"
             or e["method"] == "Runtime.consoleAPICalled" and e["params"]["type"] == "error"]
    assert not wrong, wrong
    asked = {e["params"]["request"]["url"] for e in page.events if e["method"] == "Network.requestWillBeSent"}
    foreign = {url for url in asked if not url.startswith((f"http://{address}/", "data:"))}
    assert not foreign, foreign
    print("ok: no error on the console, and no other host contacted")


CELL = "[...document.querySelectorAll('#list tr')].find(r => r.dataset.name === '{}')?.children[{}].textContent"


def check_services(page, address, shots):
    asked = len(page.events)
    page.call("Page.navigate", url=f"http://{address}/")
    page.until("each of 50 services has a row", "document.querySelectorAll('#list tr').length === 50")
    page.until("the first one is shown", "document.title === 'Ringway: shop' && document.querySelectorAll('#replicas li').length === 2 && "
               "document.querySelector('#list tr.on').dataset.name === 'shop'")
    page.until("requests are counted for their service", CELL.format("blog", 2) + " !== '0'")
    page.until("answers with 5xx are errors", CELL.format("broken", 3) + " === '100.0\\u00a0%' && " + CELL.format("blog", 3) + " === '0.0\\u00a0%'")
    page.until("a replica that is down is missing", CELL.format("broken", 1) + " === '0 of 1'")
    page.value("document.querySelectorAll('#list a')[1].focus()")
    page.type("\r")
    page.until("Enter chooses another service", "location.hash === '#blog' && document.title === 'Ringway: blog' && "
               "document.querySelectorAll('#replicas .state.up').length === 1 && document.querySelectorAll('#arcs path').length === 1")
    page.until("requests are shared out among its replicas", "parseFloat(document.querySelector('.bar i').style.width) === 100")
    page.until("the choice is marked", "document.querySelector('#list a[aria-current=true]').textContent === 'blog'")
    page.look(1280, 1000, "light", os.path.join(shots, "page-services-light.png"))
    page.look(1280, 1000, "dark", os.path.join(shots, "page-services-dark.png"))
    for width in (400, 320):
        page.look(width, 2000, "light", os.path.join(shots, f"page-services-{width}.png"))
        page.until(f"50 services do not overflow {width} pixels", "document.documentElement.scrollWidth <= innerWidth")
    page.value("location.hash = 'no%20such'")
    page.until("an unknown service is said to be none", "document.getElementById('problem').textContent === "
               "'There is no service \"no such\". Choose one of these.' && !document.getElementById('members').checkVisibility() && "
               "document.querySelectorAll('#list tr').length === 50 && !document.querySelector('#list tr.on')")
    page.look(1280, 1000, "light", os.path.join(shots, "page-unknown.png"))
    page.value("history.back()")
    page.until("going back shows the service again", "document.title === 'Ringway: blog' && !document.getElementById('problem').checkVisibility() && "
               "document.querySelectorAll('#replicas .state.up').length === 1")
    thrown = [e["params"] for e in page.events[asked:] if e["method"] == "Runtime.exceptionThrown"]
    assert not thrown, thrown


def check_token(page, address, shots):
    asked = len(page.events)
    page.call("Page.navigate", url=f"http://{address}/")
    page.until("the page asks for a token", "!document.getElementById('login').hidden && document.getElementById('main').hidden && "
               "document.activeElement.id === 'token'")
    page.type("wrong p\r")
    page.until("a wrong token is refused", "document.getElementById('refused').textContent !== ''")
    page.look(360, 800, "dark", os.path.join(shots, "page-token.png"))
    page.until("the button of the token form is at least 44 pixels high", LARGE)
    page.type(TOKEN + "\r")
    page.until("the right token opens the page", "document.getElementById('link').textContent === 'live' && "
               "!document.getElementById('main').hidden && document.querySelectorAll('#replicas .state.up').length === 1")
    page.until("the token is stored nowhere that outlives the page",
               "document.cookie + JSON.stringify([localStorage, sessionStorage]) === '[{},{}]' && "
               f"!document.documentElement.outerHTML.includes('{TOKEN}')")
    requests = [e["params"]["request"]["url"] for e in page.events[asked:] if e["method"] == "Network.requestWillBeSent"]
    assert requests and not any(TOKEN in url for url in requests), requests
    thrown = [e["params"] for e in page.events[asked:] if e["method"] == "Runtime.exceptionThrown"]
    assert not thrown, thrown
    print("ok: no URL contains the token")


def load(over, *urls):
    while not over.is_set():
        for url in urls:
            try:
                urllib.request.urlopen(url, timeout=5).read()
            except OSError:
                pass


def services(target):
    """The file of a balancer with 50 services, most of which lead to `target`."""
    replicas = {"shop": "replicas = 2", "blog": "replicas = 1", "broken": 'replica = ["127.0.0.1:1"]'}
    replicas |= {f"service-{n}": f'replica = ["r{n}={target}"]' for n in range(4, 51)}
    text = '[admin]\nlisten = "127.0.0.1:0"\n[listeners.web]\nbind = ["127.0.0.1:0"]\n'
    text += "".join(f"[services.{name}]\n{what}\n" for name, what in replicas.items())
    return text + "".join(f'[[routes]]\npath = "/{name}"\nservice = "{name}"\n' for name in replicas)


def start(binary, environment, *flags):
    return subprocess.Popen(
        [binary, "run", *flags],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **environment})


def addresses(balancer):
    return re.findall(r"http://([\d.]+:\d+)", balancer.stdout.readline())


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--binary", default="target/debug/ringway")
    options.add_argument("--shots", default=tempfile.gettempdir())
    options.add_argument("--settle", type=float, default=0, help="seconds before the pictures are taken (0)")
    options = options.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        sys.exit("no chromium on the PATH: apt-get install chromium")
    os.makedirs(options.shots, exist_ok=True)
    free = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    balancer = start(options.binary, {}, *free, "--replicas", "4")
    guarded = start(options.binary, {"RINGWAY_ADMIN_TOKEN": TOKEN}, *free, "--replicas", "1")
    browser, many, over, profile = None, None, threading.Event(), tempfile.mkdtemp()
    try:
        (data, admin), (_, guarded_admin) = addresses(balancer), addresses(guarded)
        with open(os.path.join(profile, "services.toml"), "w") as file:
            file.write(services(data))
        many = start(options.binary, {}, "-c", file.name)
        many_data, many_admin = addresses(many)
        threading.Thread(target=load, args=(over, f"http://{data}/home"), daemon=True).start()
        urls = [f"http://{many_data}/{name}" for name in ("shop", "blog/x", "broken", "service-7", "no-route")]
        threading.Thread(target=load, args=(over, *urls), daemon=True).start()
        browser = subprocess.Popen(
            [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
             f"--user-data-dir={profile}", "about:blank"], stderr=subprocess.PIPE, text=True)
        port = next(int(m[1]) for line in browser.stderr if (m := re.search(r"ws://127\.0\.0\.1:(\d+)/", line)))
        threading.Thread(target=browser.stderr.read, daemon=True).start()
        page = Page(port)
        check(page, balancer, admin, options.shots, options.settle)
        check_services(page, many_admin, options.shots)
        check_token(page, guarded_admin, options.shots)
    finally:
        over.set()
        for process in filter(None, (browser, many, balancer, guarded)):
            process.terminate()
            process.wait(PATIENCE)
        shutil.rmtree(profile, ignore_errors=True)


if __name__ == "__main__":
    main()
