//! By which names a console may be called: a page elsewhere whose name was made to lead here comes with that name.

use super::*;

fn answers_to(hosts: &[&str], authority: &[u8]) -> bool {
    let json = json!({"role": "console", "pools": ["p"], "hosts": hosts, "redis": {}});
    let mut console = match parse(json.to_string().as_bytes(), &|_| None) {
        Ok(Role::Console(config)) => Console::new(*config, 7),
        other => panic!("{other:?}"),
    };
    let headers = Headers::serialize(&[
        (b":authority", authority),
        (b":method", b"GET"),
        (b":path", b"/style.css"),
    ]);
    match console.on_request(0, 1, Headers::new(&headers), true) {
        NextStep::Answer(response) if response.status == 200 => true,
        NextStep::Answer(response) => {
            assert!(
                response.body.contains(r#""kind":"host""#),
                "{}",
                response.body
            );
            assert_eq!(response.status, 403);
            false
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_refused_is_repeated_harmlessly() {
    let hostile = "x\x1b]0;y\x07\u{9b}\n\u{202e}\u{2028}\x7f\"";
    for (authority, method, path) in [
        (hostile, "GET", "/"),
        ("localhost", hostile, "/"),
        ("localhost", "GET", hostile),
        ("localhost", "POST", "/api/drain"),
    ] {
        let mut console = console();
        let headers = Headers::serialize(&[
            (b":authority", authority.as_bytes()),
            (b":method", method.as_bytes()),
            (b":path", path.as_bytes()),
            (b"content-type", hostile.as_bytes()),
            (b"origin", hostile.as_bytes()),
            (b"authorization", hostile.as_bytes()),
        ]);
        match console.on_request(0, 1, Headers::new(&headers), true) {
            NextStep::Answer(response) => {
                assert!(response.status >= 400);
                let harmful = |text: &str| text.contains(slotgate::printable::is_harmful);
                assert!(!harmful(&response.body), "{}", response.body);
                let _: Value = serde_json::from_str(&response.body).unwrap();
                let (_, value) = response.header.unwrap_or_default();
                assert!(!harmful(value) && !harmful(response.content_type));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn only_well_formed_addresses_and_its_own_names() {
    let ours = [
        "127.0.0.1",
        "127.0.0.1:9902",
        "10.1.2.3:1",
        "[::1]",
        "[::1]:8080",
        "[::1]:65535",
        "[2001:DB8::17]:80",
        "[::ffff:127.0.0.1]",
        "localhost",
        "LocalHost:9902",
        "localhost.",
        "localhost.:9902",
        "console.example",
        "Console.Example:443",
        "console.example.:443",
        "other.example.",
        "other.example",
    ];
    let others = [
        "",
        ".",
        ":",
        ":80",
        "[",
        "[]",
        "[]:80",
        "[::1",
        "[::1:80",
        "[evil.example]",
        "[evil.example]:80",
        "[127.0.0.1]",
        "[::1]x",
        "[::1]80",
        "[::1]:",
        "[::1]:0",
        "[::1]:99999",
        "[::1]:65536",
        "[::1]:+80",
        "[::1]:-1",
        "[::1]: 80",
        "[::1]:80:80",
        "[::1]:80.evil.example",
        "[::1].evil.example",
        "[::1%25lo]",
        "[[::1]]",
        " [::1]",
        "::1",
        "::1:80",
        "1",
        "...",
        "127.1",
        "127.0.0.1.",
        "127.0.0.1..",
        "127.0.0.256",
        "127.0.0.01",
        "2130706433",
        "127.0.0.1.evil.example",
        "127.0.0.1:",
        "127.0.0.1:0",
        "127.0.0.1:99999",
        "127.0.0.1:+80",
        "127.0.0.1:80x",
        "127.0.0.1:80:80",
        "127.0.0.1 ",
        "127.0.0.1@evil.example",
        "evil.example@127.0.0.1",
        "localhost..",
        "localhost:",
        "localhost:port",
        "localhost:99999",
        "localhost.evil.example",
        "evil-localhost",
        "console.example:99999",
        "console.example..",
        "sub.console.example",
        "console.example,evil.example",
    ];
    let hosts = ["console.example", "other.example.", "."];
    for host in ours {
        assert!(answers_to(&hosts, host.as_bytes()), "{host}");
    }
    for host in others {
        assert!(!answers_to(&hosts, host.as_bytes()), "{host}");
    }
    assert!(!answers_to(&[], b"console.example"));
    assert!(!answers_to(&hosts, b"console.example\xff"));
    assert!(!answers_to(&hosts, b"\xff"));
}
