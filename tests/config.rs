//! The configuration file: listeners, services and routes, judged by `ringway check` and printed by `ringway config`.

mod support;

use std::path::PathBuf;

use support::run;

const SHOP: &str = r#"
replicas = 2

[listeners.web]
bind = ["127.0.0.1:8080", "127.0.0.2:8080"]
limits = { head_timeout = "5s" }

[listeners.database]
bind = ["127.0.0.1:5432"]
mode = "tcp"

[services.shop]
hash = { key = "cookie:session" }
limits = { attempts = 2 }

[services.canary]
replicas = 1

[services.postgres]
mode = "tcp"
replica = ["10.0.0.5:5432", "10.0.0.6:5432"]

[[routes]]
host = "shop.example.com"
path = "/api"
methods = ["GET", "POST"]
split = { shop = 95, canary = 5 }

[[routes]]
host = "*.example.com"
listeners = ["web"]
service = "shop"

[[routes]]
host = "old.example.com"
redirect = "https://shop.example.com{uri}"
status = 301
"#;

/// A file of this test, removed at its end.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> File {
        let path =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("config-{}-{name}.toml", std::process::id()));
        std::fs::write(&path, text).expect("the folder of this test can be written");
        File(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a path of text")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Exit status, stdout and the lines of stderr.
fn check(file: &File) -> (Option<i32>, String, Vec<String>) {
    let output = run(&["check", file.path()]);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let lines = text(&output.stderr).lines().map(str::to_owned).collect();
    (output.status.code(), text(&output.stdout), lines)
}

#[test]
fn listeners_services_and_routes_are_summarised() {
    let file = File::new("shop", SHOP);
    let (status, summary, errors) = check(&file);
    assert_eq!((status, errors.len()), (Some(0), 0), "{errors:?}");
    for part in ["2 listeners", "3 services", "3 routes", "web on 127.0.0.1:8080", "postgres"] {
        assert!(summary.contains(part), "{part} is missing from {summary}");
    }
}

/// `ringway config` prints a file that means the same.
#[test]
fn the_effective_configuration_names_listeners_services_and_routes() {
    let file = File::new("effective", SHOP);
    let printed = run(&["config", "-c", file.path()]).stdout;
    let printed = String::from_utf8(printed).expect("text");
    for line in [
        "[listeners.web]",
        "bind = [\"127.0.0.1:8080\", \"127.0.0.2:8080\"]",
        "[services.shop.hash]",
        "key = \"cookie:session\"",
        "split = { canary = 5, shop = 95 }",
        "host = \"*.example.com\"",
        "status = 301",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line} is missing from:\n{printed}");
    }
    let again = File::new("again", &printed);
    let summary = |file: &File| {
        let summary = check(file).1;
        summary.lines().next().and_then(|line| Some(line.split_once(" is valid")?.1.to_owned()))
    };
    assert_eq!(summary(&again), summary(&file));
    let reprinted = run(&["config", "-c", again.path()]).stdout;
    assert_eq!(String::from_utf8_lossy(&reprinted), printed);
}

#[test]
fn an_address_outside_of_the_listeners_that_are_named_is_refused_wherever_it_comes_from() {
    let named = "[listeners.web]\nbind = [\"127.0.0.1:8080\"]\n";
    let in_file = File::new("listen-file", &format!("listen = \"127.0.0.1:99\"\n{named}"));
    let (status, _, errors) = check(&in_file);
    let expected = ":1:1: --listen 127.0.0.1:99 has no effect beside [listeners.web], whose bind wins";
    assert!(status == Some(2) && errors.len() == 1 && errors[0].contains(expected), "{errors:?}");
    let file = File::new("listen-flag", named);
    assert_eq!(check(&file).0, Some(0), "a default is nothing that was said");
    let by_flag = run(&["run", "--listen", "127.0.0.1:99", "-c", file.path()]);
    let stderr = String::from_utf8_lossy(&by_flag.stderr).into_owned();
    assert!(by_flag.status.code() == Some(2) && stderr.contains("--listen 127.0.0.1:99 has no effect"), "{stderr}");
}

const SECURE: &str = r#"
[tls]
min_version = "1.3"

[limits]
handshake_timeout = "2s"

[listeners.secure]
bind = ["127.0.0.1:8443"]
[listeners.secure.tls]
certificates = "self-signed"

[listeners.plain]
bind = ["127.0.0.1:8080"]
"#;

/// The oldest version is a default of every listener with TLS; certificates are of none.
#[test]
fn a_listener_speaks_tls_where_its_own_table_has_certificates() {
    let file = File::new("secure", SECURE);
    let (status, printed, errors) = check(&file);
    assert_eq!((status, errors.len()), (Some(0), 0), "{errors:?}");
    assert!(!printed.contains("warning"), "{printed}");
    let printed = String::from_utf8(run(&["config", "-c", file.path()]).stdout).expect("text");
    let lines = ["[tls]", "min_version = 1.3", "[listeners.secure.tls]", "certificates = [\"self-signed\"]"];
    for line in lines {
        assert!(printed.lines().any(|printed| printed == line), "{line} is missing from:\n{printed}");
    }
    assert_eq!(check(&File::new("secure-again", &printed)).0, Some(0), "{printed}");
    let beside = File::new("secure-beside", &SECURE.replace("min_version", "certificates = \"/x\"\nmin_version"));
    let (status, _, errors) = check(&beside);
    let expected = ":3:1: --tls has no effect beside [listeners.secure]: write it into the table of a listener";
    assert!(status == Some(2) && errors.len() == 1 && errors[0].contains(expected), "{errors:?}");
}

#[test]
fn a_pair_of_files_is_printed_as_it_was_written() {
    let pair = "certificates = [{ cert = \"/a.crt\", key = \"/a.key\" }, \"/b.pem\"]";
    let text = format!("[listeners.secure]\nbind = [\"127.0.0.1:8443\"]\n[listeners.secure.tls]\n{pair}\n");
    let printed = run(&["config", "-c", File::new("pair", &text).path()]);
    let printed = String::from_utf8(printed.stdout).expect("text");
    assert!(printed.lines().any(|line| line == pair), "{printed}");
}

#[test]
fn settings_of_tls_without_certificates_have_no_effect() {
    let text = "[tls]\nmin_version = \"1.3\"\n[limits]\nhandshake_timeout = \"2s\"\n";
    let (status, printed, _) = check(&File::new("no-tls", text));
    assert_eq!(status, Some(0), "{printed}");
    for setting in ["--tls-min-version", "--handshake-timeout"] {
        assert!(printed.contains(&format!("{setting} has no effect without --tls")), "{setting}: {printed}");
    }
}

#[test]
fn a_default_of_services_is_unused_only_where_no_service_uses_it() {
    let listener = "[listeners.web]\nbind = [\"127.0.0.1:8080\"]\nservice = \"a\"\n";
    let docker = "[docker]\nimage = \"app\"\n[services.a]\nruntime = \"docker\"\n[services.b]\n";
    let warnings = |file: File| {
        let (status, printed, _) = check(&file);
        assert_eq!(status, Some(0), "{printed}");
        printed.lines().filter(|line| line.contains("has no effect")).map(str::to_owned).collect::<Vec<_>>()
    };
    let used = warnings(File::new("used", &format!("{listener}{docker}")));
    assert!(used.is_empty(), "{used:?}");
    let fixed = "[services.a]\nreplica = [\"127.0.0.1:9\"]\n";
    let unused = warnings(File::new("unused", &format!("replicas = 4\n{listener}{fixed}")));
    assert!(unused.len() == 1 && unused[0].contains(":1:1: --replicas has no effect"), "{unused:?}");
}

#[test]
fn what_gets_no_request_is_named() {
    let text = "[listeners.web]\nbind = [\"127.0.0.1:8080\"]\n[services.a]\n[services.b]\n";
    let routes = "[[routes]]\npath = \"/a\"\nservice = \"a\"\n[[routes]]\npath = \"/a\"\nredirect = \"http://a/\"\n";
    let (status, printed, _) = check(&File::new("unreached", &format!("{text}{routes}")));
    assert_eq!(status, Some(0), "{printed}");
    let warnings: Vec<&str> = printed.lines().filter(|line| line.starts_with("warning: ")).collect();
    let expected =
        [":4:11: services.b: no listener and no route", ":8:1: routes[1]: it has no effect behind routes[0]"];
    assert!(
        warnings.len() == 2 && warnings.iter().zip(expected).all(|(line, part)| line.contains(part)),
        "{warnings:?}"
    );
}

#[test]
fn a_table_that_is_none_and_the_address_of_the_admin_api_are_refused() {
    let errors = check(&File::new("table", "[colours]\n")).2;
    assert!(errors.len() == 1 && errors[0].contains(":1:2: colours: there is no such table"), "{errors:?}");
    let errors = check(&File::new("taken", "[listeners.web]\nbind = [\"127.0.0.1:8001\"]\n")).2;
    assert!(errors.len() == 1 && errors[0].contains("bind: --admin is 127.0.0.1:8001 too"), "{errors:?}");
    let errors = check(&File::new("number", "replicas = \"two\"\n")).2;
    assert!(errors.len() == 1 && errors[0].contains("want a whole number"), "{errors:?}");
}

#[test]
fn what_services_have_is_asked_of_each_and_not_of_their_defaults() {
    let services = "[services.a]\nreplica = [\"127.0.0.1:9101\"]\n[services.b]\nreplica = [\"127.0.0.1:9102\"]\n";
    let routes = "[[routes]]\npath = \"/b\"\nservice = \"b\"\n[[routes]]\nservice = \"a\"\n";
    let file = File::new("defaults", &format!("runtime = \"fixed\"\n{services}{routes}"));
    let (status, _, errors) = check(&file);
    assert_eq!((status, errors), (Some(0), Vec::new()));
    let without = services.replace("replica = [\"127.0.0.1:9102\"]", "");
    let file = File::new("defaults-missing", &format!("runtime = \"fixed\"\n{without}{routes}"));
    let (status, _, errors) = check(&file);
    assert_eq!(status, Some(2));
    assert!(
        errors.iter().any(|line| line.contains(":4:") && line.contains("services.b: --runtime fixed needs")),
        "{errors:?}"
    );
}

#[test]
fn every_mistake_is_named_with_line_and_column() {
    let file = File::new(
        "wrong",
        r#"replicas = "many"
colour = "red"

[listeners.web]
bind = ["localhost:80"]
  mode = "udp"
service = "nowhere"
[services."a b"]
hash = { key = "cookies:x" }

[services.shop]
limits = { max_connections = 5, attempts = 0 }
docker = { image = 7, nothing = 1 }

[[routes]]
path = "api"
methods = ["get"]
split = { shop = -1 }

[[routes]]
redirect = "shop.example.com"
status = 200
"#,
    );
    let (status, _, errors) = check(&file);
    assert_eq!(status, Some(2));
    let expected = [
        (":1:1: replicas", "many"),
        (":2:1: colour", "no such setting"),
        (":5:1: listeners.web.bind", "IP:PORT"),
        (":6:3: listeners.web.mode", "http, tcp or tls-passthrough"),
        (":7:1: listeners.web.service", "there is no service nowhere; there are a b, shop"),
        (":8:11: services.a b", "letters"),
        (":9:10: services.a b.hash.key", "header:NAME"),
        (":12:12: services.shop.limits.max_connections", "no such setting"),
        (":12:33: services.shop.limits.attempts", "from 1 to 100"),
        (":13:23: services.shop.docker.nothing", "no such setting"),
        (":16:1: routes[0].path", "like /api"),
        (":17:1: routes[0].methods", "upper case"),
        (":18:1: routes[0].split", "weights"),
        (":21:1: routes[1].redirect", "a URL"),
        (":22:1: routes[1].status", "308"),
    ];
    for (at, (place, allowed)) in expected.iter().enumerate() {
        let line = errors.get(at).map_or("", String::as_str);
        assert!(line.contains(place) && line.contains(allowed), "want {place} ... {allowed}, got {line}");
    }
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
}

#[test]
fn what_contradicts_is_named_too() {
    let file = File::new(
        "contradiction",
        r#"
[listeners.web]
bind = ["127.0.0.1:80"]

[listeners.again]
bind = ["127.0.0.1:80"]
service = "database"

[listeners.bytes]
bind = ["127.0.0.1:90"]
mode = "tcp"
service = "shop"

[listeners.none]
service = "shop"

[services.shop]
replica = ["10.0.0.1:80"]

[services.database]
mode = "tcp"
replica = ["10.0.0.1:80"]

[[routes]]
service = "nowhere"

[[routes]]
listeners = ["inside"]
service = "shop"

[[routes]]
path = "/x"

[[routes]]
service = "database"
"#,
    );
    let (status, _, errors) = check(&file);
    assert_eq!(status, Some(2));
    let expected = [
        "listeners.again: service database has mode tcp: want one with mode http",
        "listeners.again: bind: 127.0.0.1:80 is in listeners.",
        "listeners.bytes: service shop has mode http: want one with mode tcp",
        "listeners.none: bind is missing",
        "replica 10.0.0.1:80 is in services.",
        "routes[0]: there is no service nowhere; there are database, shop",
        "routes[1]: listeners: there is no listener inside",
        "routes[2]: want exactly one of service, split and redirect",
        "routes[3]: its service has mode tcp, and no listener has mode tls-passthrough",
    ];
    for part in expected {
        assert!(errors.iter().any(|line| line.contains(part)), "{part} is missing from {errors:#?}");
    }
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
}

#[test]
fn a_route_of_requests_needs_a_listener_of_requests() {
    let file = File::new(
        "no-http",
        r#"
[listeners.pass]
bind = ["127.0.0.1:443"]
mode = "tls-passthrough"
service = "mail"

[services.mail]
mode = "tcp"
replica = ["10.0.0.3:80"]

[services.shop]
replica = ["10.0.0.1:80"]

[[routes]]
service = "shop"
"#,
    );
    let (status, _, errors) = check(&file);
    assert_eq!(status, Some(2));
    let expected = "routes[0]: no listener has mode http: no request comes to it";
    assert!(errors.len() == 1 && errors[0].contains(expected), "{errors:#?}");
}

/// A route is for listeners of one kind: those of requests, or those that TLS passes through.
#[test]
fn what_contradicts_where_tls_passes_through_is_named() {
    let file = File::new(
        "passthrough",
        r#"
[listeners.web]
bind = ["127.0.0.1:80"]

[listeners.pass]
bind = ["127.0.0.1:443"]
mode = "tls-passthrough"

[listeners.pass.tls]
certificates = "self-signed"

[listeners.blob]
bind = ["127.0.0.1:444"]
mode = "tls-passthrough"
service = "shop"

[services.shop]
replica = ["10.0.0.1:80"]
hash = { key = "sni" }

[services.database]
mode = "tcp"
replica = ["10.0.0.2:80"]
hash = { key = "uri" }

[services.mail]
mode = "tcp"
replica = ["10.0.0.3:80"]
hash = { key = "sni" }

[[routes]]
host = "db.test"
path = "/x"
service = "mail"

[[routes]]
listeners = ["web"]
service = "mail"

[[routes]]
listeners = ["pass"]
service = "shop"

[[routes]]
split = { mail = 1, shop = 1 }
"#,
    );
    let (status, _, errors) = check(&file);
    assert_eq!(status, Some(2));
    let settings = [
        "listeners.pass: --tls has no place beside --mode tls-passthrough",
        "services.shop: --hash-key sni needs --mode tls-passthrough",
        "services.database: --hash-key needs --mode http here",
    ];
    for part in settings {
        assert!(errors.iter().any(|line| line.contains(part)), "{part} is missing from {errors:#?}");
    }
    assert_eq!(errors.len(), settings.len(), "{errors:#?}");
    let text = std::fs::read_to_string(&file.0).unwrap();
    let text = text.replace("hash = { key = \"uri\" }", "").replacen("hash = { key = \"sni\" }", "", 1);
    std::fs::write(&file.0, text.replace("[listeners.pass.tls]\ncertificates = \"self-signed\"\n", "")).unwrap();
    let (_, _, errors) = check(&file);
    let contradictions = [
        "listeners.blob: service shop has mode http: want one with mode tcp",
        "routes[0]: its service has mode tcp: TLS that passes through has no path and no method",
        "routes[1]: listeners: web has mode http: want those with mode tls-passthrough",
        "routes[2]: listeners: pass has mode tls-passthrough: want those with mode http",
        "routes[3]: service shop has mode http: want one with mode tcp",
    ];
    for part in contradictions {
        assert!(errors.iter().any(|line| line.contains(part)), "{part} is missing from {errors:#?}");
    }
    assert_eq!(errors.len(), contradictions.len(), "{errors:#?}");
}

#[test]
fn a_mistake_among_a_services_settings_is_found_at_its_line() {
    let file = File::new(
        "service",
        "[services.shop]\nreplicas = 70\n\n[services.blog]\nmode = \"tcp\"\nhash = { key = \"uri\" }\n",
    );
    let (_, _, errors) = check(&file);
    assert!(errors.iter().any(|line| line.contains(":2:1: services.shop: --replicas 70")), "{errors:?}");
    assert!(errors.iter().any(|line| line.contains(":6:10: services.blog: --hash-key")), "{errors:?}");
}

#[test]
fn which_service_a_listener_means_must_be_clear() {
    let two = "[services.a]\n[services.b]\n";
    assert!(check(&File::new("unclear", two)).2.iter().any(|line| line.contains("service is missing")));
    let routed = format!("{two}[[routes]]\nservice = \"a\"\n");
    assert_eq!(check(&File::new("routed", &routed)).0, Some(0));
    assert_eq!(check(&File::new("only", "[services.a]\n")).0, Some(0));
}

/// A client that reaches `/add` can start replicas, on whichever listener.
#[test]
fn the_admin_api_on_a_listener_that_others_reach_needs_a_token() {
    let web = "[admin]\non_data_port = true\n[listeners.web]\nbind = [\"127.0.0.1:80\", \"0.0.0.0:81\"]\n";
    let (status, _, errors) = check(&File::new("exposed", web));
    assert_eq!((status, errors.len()), (Some(2), 1), "{errors:?}");
    assert!(errors[0].contains("listeners.web: --admin-on-data-port on 0.0.0.0:81"), "{errors:?}");
    let with_token = web.replace("[admin]\n", "[admin]\ntoken = \"secret\"\n");
    assert_eq!(check(&File::new("token", &with_token)).0, Some(0));
    let tcp = format!("{}mode = \"tcp\"\n[services.s]\nmode = \"tcp\"\n", web);
    assert_eq!(check(&File::new("bytes", &tcp)).0, Some(0), "a tcp listener has no paths");
}

#[test]
fn limits_of_a_listener_that_contradict_are_named() {
    let text =
        "[listeners.web]\nbind = [\"127.0.0.1:80\"]\nlimits = { line_limit = \"4KiB\", head_limit = \"2KiB\" }\n";
    let (_, _, errors) = check(&File::new("limits", text));
    assert!(errors.iter().any(|line| line.contains(":3:33: listeners.web: --line-limit 4KiB is over")), "{errors:?}");
}

/// What `ringway check` says of a file with this text, a line for each mistake.
#[test]
fn a_policy_and_its_bound_are_judged_together() {
    for (name, text, expected) in [
        (
            "policy",
            "policy = \"fair\"",
            ":1:1: policy: `fair` is not allowed: want hash, least-request, round-robin or random",
        ),
        (
            "ring",
            "[hash]\nring = \"rendezvous\"",
            ":2:1: hash.ring: `rendezvous` is not allowed: want ketama, maglev or exercise",
        ),
        (
            "below",
            "[hash]\nbalance_factor = 0.9",
            ":2:1: hash.balance_factor: `0.9` is not allowed: want a number from 1 to 1000",
        ),
        (
            "word",
            "[hash]\nbalance_factor = \"x\"",
            ":2:1: hash.balance_factor: `x` is not allowed: want a number from 1 to 1000",
        ),
        (
            "unbounded",
            "policy = \"random\"\n[hash]\nbalance_factor = 1.5",
            ":3:1: --balance-factor 1.5 needs --policy hash: it bounds the loads of the ring's choices",
        ),
        (
            "named",
            "[services.shop]\npolicy = \"round-robin\"\nhash = { balance_factor = 2 }",
            ":3:10: services.shop: --balance-factor 2 needs --policy hash",
        ),
    ] {
        let (status, _, errors) = check(&File::new(name, text));
        assert_eq!((status, errors.len()), (Some(2), 1), "{errors:?}");
        assert!(errors[0].contains(expected), "{} lacks {expected}", errors[0]);
    }
    let (status, printed, _) = check(&File::new("unused", "policy = \"random\"\n[hash]\nkey = \"uri\""));
    assert!(status == Some(0) && printed.contains(":3:1: --hash-key has no effect without --policy hash"), "{printed}");
    let bounded = "policy = \"hash\"\n[hash]\nring = \"maglev\"\nbalance_factor = 1.25";
    let (status, _, lines) = check(&File::new("bounded", bounded));
    assert_eq!((status, lines.len()), (Some(0), 0), "{lines:?}");
    let printed = run(&["config", "-c", File::new("printed", bounded).path()]).stdout;
    let printed = String::from_utf8(printed).expect("text");
    assert!(printed.contains("\npolicy = \"hash\"\n") && printed.contains("\nbalance_factor = 1.25\n"), "{printed}");
}
