//! Replicas that an API lists, under requests none of which may fail. Debian has neither Consul nor an API server of Kubernetes:
//! a server of this test answers as their documentation says.

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::followed::{Followed, Replica, TestFile};
use support::pki::{Authority, Folder, Kind};
use support::{Process, TIMEOUT, field, until};

/// What a scripted server knows, and how it answers.
struct Script<S> {
    state: Mutex<S>,
    changed: Condvar,
    /// Requests are answered with this status.
    broken: Mutex<Option<u16>>,
    /// The head of the last request.
    last: Mutex<String>,
}

impl<S> Script<S> {
    fn new(state: S) -> Arc<Script<S>> {
        let (state, changed) = (Mutex::new(state), Condvar::new());
        Arc::new(Script { state, changed, broken: Mutex::default(), last: Mutex::default() })
    }

    fn change(&self, change: impl FnOnce(&mut S)) {
        change(&mut self.state.lock().expect("a state"));
        self.changed.notify_all();
    }

    fn set_broken(&self, status: Option<u16>) {
        *self.broken.lock().expect("a state") = status;
        self.changed.notify_all();
    }
}

/// A server at an address that can be taken away and come back.
struct Server {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

type Answer<S> = fn(&Script<S>, &str, &mut TcpStream) -> std::io::Result<()>;

impl Server {
    fn start<S: Send + 'static>(script: &Arc<Script<S>>, answer: Answer<S>) -> Server {
        Server::at("127.0.0.1:0".parse().expect("an address"), script, answer)
    }

    fn at<S: Send + 'static>(address: SocketAddr, script: &Arc<Script<S>>, answer: Answer<S>) -> Server {
        let listener = TcpListener::bind(address).expect("the address");
        let address = listener.local_addr().expect("bound");
        let (ended, connections) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Vec<TcpStream>>>::default());
        let (script, own) = (script.clone(), (ended.clone(), connections.clone()));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if own.0.load(Ordering::Relaxed) {
                    return;
                }
                let (script, mut stream) = (script.clone(), stream.expect("a client"));
                own.1.lock().expect("a list").push(stream.try_clone().expect("a handle"));
                std::thread::spawn(move || {
                    let Some(head) = head(&mut stream) else { return };
                    script.last.lock().expect("a head").clone_from(&head);
                    let _ = match *script.broken.lock().expect("a state") {
                        Some(status) => respond(&mut stream, status, "", "{\"message\":\"scripted\"}"),
                        None => Ok(()),
                    };
                    if script.broken.lock().expect("a state").is_none() {
                        let _ = answer(&script, &head, &mut stream);
                    }
                    let _ = stream.shutdown(std::net::Shutdown::Both);
                });
            }
        });
        Server { address, ended, connections }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends, with its connections: its address is free again.
    fn end(self) -> SocketAddr {
        self.ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        for connection in self.connections.lock().expect("a list").iter() {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
        until(Instant::now() + TIMEOUT, "the end of the server", || {
            TcpListener::bind(self.address).is_ok().then_some(())
        });
        self.address
    }
}

/// `None`: the client went away.
fn head(stream: &mut TcpStream) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

fn respond(stream: &mut TcpStream, status: u16, fields: &str, body: &str) -> std::io::Result<()> {
    let length = body.len();
    write!(stream, "HTTP/1.1 {status} Scripted\r\nContent-Length: {length}\r\n{fields}\r\n{body}")
}

/// A parameter of the query string.
fn parameter(head: &str, name: &str) -> Option<String> {
    let target = head.split(' ').nth(1)?;
    let pairs = target.split_once('?')?.1.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).next()
}

/// A registry of Consul.
#[derive(Default)]
struct Consul {
    index: u64,
    instances: Vec<Value>,
    has_no_leader: bool,
}

fn instance(replica: &Replica, weight: u32) -> Value {
    let (ip, port) = (replica.address().ip().to_string(), replica.address().port());
    json!({
        "Node": { "Node": "n", "Address": ip },
        "Service": { "ID": port.to_string(), "Address": "", "Port": port, "Weights": { "Passing": weight, "Warning": 1 } },
        "Checks": [],
    })
}

/// As `/v1/health/service` does: a query with an index is answered when the index is another one.
fn consul(script: &Script<Consul>, head: &str, stream: &mut TcpStream) -> std::io::Result<()> {
    assert!(head.starts_with("GET /v1/health/service/shop?passing=1"), "{head}");
    let index = parameter(head, "index").map(|index| index.parse::<u64>().expect("a number"));
    let waits = |state: &mut Consul| index == Some(state.index) && script.broken.lock().expect("a state").is_none();
    let state = script.state.lock().expect("a state");
    let (state, _) = script.changed.wait_timeout_while(state, TIMEOUT, waits).expect("a state");
    let fields = format!("X-Consul-Index: {}\r\nX-Consul-Knownleader: {}\r\n", state.index, !state.has_no_leader);
    let body = Value::from(state.instances.clone()).to_string();
    drop(state);
    respond(stream, 200, &fields, &body)
}

#[test]
fn instances_of_consul_are_followed_and_its_faults_cost_no_request() {
    let [a, b, c] = [(); 3].map(|()| Replica::start());
    let script =
        Script::new(Consul { index: 10, instances: vec![instance(&a, 4), instance(&b, 2)], ..Consul::default() });
    let mut server = Server::start(&script, consul);
    let token = TestFile::new("consul-token");
    token.write("s3cret\n");
    let (url, source) = (server.url(), ["--runtime", "consul", "--source-name", "shop"]);
    let more = ["--source-api", &url, "--source-token-file", token.path()];
    let followed = Followed::start("source-consul", &[source, more].concat());
    followed.await_replicas(&[&a, &b]);
    assert_eq!(
        (&followed.replica(&a.name())["weight"], &followed.replica(&b.name())["weight"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(field(&script.last.lock().expect("a head"), "x-consul-token"), Some("s3cret"));
    let set = |index: u64, instances: &[&Replica]| {
        script.change(|state| {
            let instances = instances.iter().map(|replica| instance(replica, 1)).collect();
            *state = Consul { index, instances, has_no_leader: false };
        });
    };
    followed.under_load(|| {
        set(11, &[&b, &c]);
        followed.await_replicas(&[&b, &c]);
        // A registry that was restored counts from the beginning.
        set(3, &[&a, &c]);
        followed.await_replicas(&[&a, &c]);
        set(4, &[&a, &b]);
        followed.await_replicas(&[&a, &b]);
        // What an agent says without a leader is not believed, nor that there is nothing.
        script.change(|state| *state = Consul { index: 5, instances: Vec::new(), has_no_leader: true });
        followed.await_log("its servers have no leader");
        set(6, &[]);
        followed.await_log("it lists nothing, and had 2 servers");
        set(7, &[&a, &b]);
        followed.await_log("its empty answer was not believed");
        script.set_broken(Some(500));
        followed.await_log("it answered 500 Internal Server Error: scripted");
        followed.await_replicas(&[&a, &b]);
        script.set_broken(None);
        followed.await_state("following");
    });
    let address = server.end();
    followed.await_state("lost");
    followed.under_load(|| followed.await_replicas(&[&a, &b]));
    set(1, &[&c]);
    server = Server::at(address, &script, consul);
    followed.await_replicas(&[&c]);
    set(2, &[]);
    followed.await_replicas(&[]);
    server.end();
}

/// The EndpointSlices of one Service: what is, and what happened since version 1.
struct Cluster {
    version: u64,
    slices: BTreeMap<String, Value>,
    events: Vec<(u64, Value)>,
    /// Changes before this are forgotten.
    compacted: u64,
}

impl Cluster {
    fn new() -> Cluster {
        Cluster { version: 1, slices: BTreeMap::new(), events: Vec::new(), compacted: 0 }
    }

    fn set(&mut self, name: &str, endpoints: &[Value], ports: Value) {
        self.version += 1;
        let kind = if self.slices.contains_key(name) { "MODIFIED" } else { "ADDED" };
        let slice = json!({
            "metadata": { "name": name, "resourceVersion": self.version.to_string() },
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": ports,
        });
        self.slices.insert(name.into(), slice.clone());
        self.events.push((self.version, json!({ "type": kind, "object": slice })));
    }

    fn delete(&mut self, name: &str) {
        self.version += 1;
        let mut slice = self.slices.remove(name).expect("a slice");
        slice["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.events.push((self.version, json!({ "type": "DELETED", "object": slice })));
    }
}

fn endpoint(replica: &Replica, pod: &str, ready: bool) -> Value {
    json!({
        "addresses": [replica.address().ip().to_string()],
        "conditions": { "ready": ready },
        "targetRef": { "kind": "Pod", "name": pod },
    })
}

fn port(replica: &Replica) -> Value {
    json!([{ "name": "http", "port": replica.address().port(), "protocol": "TCP" }])
}

/// As `/apis/discovery.k8s.io/v1` does: a list, or a watch that ends with the server.
fn kubernetes(script: &Script<Cluster>, head: &str, stream: &mut TcpStream) -> std::io::Result<()> {
    let path =
        "GET /apis/discovery.k8s.io/v1/namespaces/web/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dshop";
    assert!(head.starts_with(path), "{head}");
    if parameter(head, "watch").is_none() {
        let state = script.state.lock().expect("a state");
        let items: Vec<&Value> = state.slices.values().collect();
        let version = state.version.to_string();
        let list = json!({ "metadata": { "resourceVersion": version }, "items": items }).to_string();
        drop(state);
        return respond(stream, 200, "", &list);
    }
    let mut version: u64 = parameter(head, "resourceVersion").and_then(|text| text.parse().ok()).expect("a version");
    write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    loop {
        let state = script.state.lock().expect("a state");
        let is_idle = |state: &mut Cluster| state.version <= version && state.compacted <= version;
        let (state, timeout) =
            script.changed.wait_timeout_while(state, Duration::from_secs(5), is_idle).expect("a state");
        if state.compacted > version {
            let gone = json!({ "type": "ERROR", "object": { "code": 410, "message": "too old resource version" } });
            chunk(stream, &gone)?;
            return write!(stream, "0\r\n\r\n");
        }
        let news: Vec<Value> =
            state.events.iter().filter(|(at, _)| *at > version).map(|(_, event)| event.clone()).collect();
        version = state.version;
        drop(state);
        for event in news {
            chunk(stream, &event)?;
        }
        if timeout.timed_out() {
            chunk(
                stream,
                &json!({ "type": "BOOKMARK", "object": { "metadata": { "resourceVersion": version.to_string() } } }),
            )?;
        }
    }
}

/// A line, in two chunks that end anywhere.
fn chunk(stream: &mut TcpStream, event: &Value) -> std::io::Result<()> {
    let line = format!("{event}\n");
    let (first, second) = line.split_at(line.len() / 2);
    for part in [first, second] {
        write!(stream, "{:x}\r\n{part}\r\n", part.len())?;
        stream.flush()?;
    }
    Ok(())
}

#[test]
fn endpoints_of_kubernetes_are_followed_and_its_faults_cost_no_request() {
    let [a, b, c] = [(); 3].map(|()| Replica::start());
    let script = Script::new(Cluster::new());
    script.change(|state| {
        state.set("shop-a", &[endpoint(&a, "shop-0", true)], port(&a));
        state.set("shop-b", &[endpoint(&b, "shop-1", true)], port(&b));
        state.set("shop-c", &[endpoint(&c, "shop-2", false)], port(&c));
    });
    let server = Server::start(&script, kubernetes);
    let url = server.url();
    let source = ["--runtime", "kubernetes", "--source-name", "shop", "--source-namespace", "web"];
    let followed =
        Followed::start("source-kubernetes", &[&source[..], &["--source-port", "http", "--source-api", &url]].concat());
    followed.await_names(&["shop-0", "shop-1"]);
    let mut address = server.address;
    followed.under_load(|| {
        // A change of one slice, while the others stay.
        script.change(|state| state.set("shop-c", &[endpoint(&c, "shop-2", true)], port(&c)));
        followed.await_names(&["shop-0", "shop-1", "shop-2"]);
        script.change(|state| state.delete("shop-a"));
        followed.await_names(&["shop-1", "shop-2"]);
        // What happened before is forgotten: the list is asked for anew.
        script.change(|state| {
            state.set("shop-a", &[endpoint(&a, "shop-0", true)], port(&a));
            state.slices.remove("shop-b");
            state.version += 1;
            state.events.clear();
            state.compacted = state.version;
        });
        followed.await_names(&["shop-0", "shop-2"]);
        // All endpoints gone at once: a controller that restarts, say.
        script.change(|state| {
            state.set("shop-a", &[], json!(null));
            state.set("shop-c", &[], json!(null));
        });
        followed.await_log("it lists nothing, and had 1 server");
        script.change(|state| {
            state.set("shop-a", &[endpoint(&a, "shop-0", true)], port(&a));
            state.set("shop-b", &[endpoint(&b, "shop-1", true)], port(&b));
        });
        followed.await_names(&["shop-0", "shop-1"]);
        // The server ends under the watch, and comes back.
        address = server.end();
        followed.await_state("lost");
        followed.await_names(&["shop-0", "shop-1"]);
        script.change(|state| state.set("shop-c", &[endpoint(&c, "shop-2", true)], port(&c)));
        let server = Server::at(address, &script, kubernetes);
        followed.await_names(&["shop-0", "shop-1", "shop-2"]);
        script.set_broken(Some(403));
        address = server.end();
        let _server = Server::at(address, &script, kubernetes);
        until(Instant::now() + TIMEOUT, "the refusal", || {
            followed.source()["last_error"].as_str()?.contains("it answered 403 Forbidden: scripted").then_some(())
        });
        followed.await_names(&["shop-0", "shop-1", "shop-2"]);
        script.set_broken(None);
        followed.await_state("following");
    });
}

/// As in a cluster: the API server has a certificate of the cluster's authority, and wants the token of the service account,
/// which is replaced before it expires. Another Ringway is the end of TLS.
#[test]
fn an_api_over_tls_is_verified_and_gets_the_token_of_the_moment() {
    let [a, b] = [(); 2].map(|()| Replica::start());
    let script = Script::new(Cluster::new());
    script.change(|state| state.set("shop-a", &[endpoint(&a, "shop-0", true)], port(&a)));
    let server = Server::start(&script, kubernetes);
    let (authority, certs) = (Authority::new(), Folder::new("source-api"));
    certs.add("api", &authority.issue(&["localhost"], Kind::Ecdsa, 90));
    let (ca, other, token) = (TestFile::new("ca"), TestFile::new("other-ca"), TestFile::new("account-token"));
    ca.write(&authority.pem);
    other.write(&Authority::new().pem);
    token.write("first\n");
    let behind = server.address.to_string();
    let listen = ["run", "--listen", "127.0.0.1:0", "--admin", "off", "--mode", "tcp", "--tls", certs.path()];
    let tls = Process::start(&[&listen[..], &["--replica", &behind]].concat(), &[]);
    let url = format!("https://localhost:{}", tls.address.port());
    let source =
        ["--runtime", "kubernetes", "--source-name", "shop", "--source-namespace", "web", "--source-api", &url];
    let with = |name: &str, ca: &TestFile| {
        let files = ["--source-ca", ca.path(), "--source-token-file", token.path()];
        Followed::start(name, &[&source[..], &files].concat())
    };
    let followed = with("source-tls", &ca);
    followed.await_names(&["shop-0"]);
    let bearer = || field(&script.last.lock().expect("a head"), "authorization").map(str::to_owned);
    assert_eq!(bearer().as_deref(), Some("Bearer first"));
    token.replace("second\n");
    // What happened before is forgotten: the next question is for the list.
    script.change(|state| {
        state.set("shop-b", &[endpoint(&b, "shop-1", true)], port(&b));
        (state.events, state.compacted) = (Vec::new(), state.version);
    });
    followed.await_names(&["shop-0", "shop-1"]);
    until(Instant::now() + TIMEOUT, "the new token", || (bearer()? == "Bearer second").then_some(()));
    let deceived = with("source-tls-other", &other);
    deceived.await_log("TLS handshake failed");
    assert_eq!(deceived.balancer.replicas(), [""; 0]);
}

#[test]
fn what_is_wrong_about_an_api_is_named() {
    let file = TestFile::new("wrong-api.toml");
    for (text, wrong) in [
        ("runtime = \"consul\"\n", "--source-name"),
        ("runtime = \"consul\"\n[source]\nname = \"shop\"\napi = \"127.0.0.1:8500\"\n", "want http://HOST:PORT"),
        ("runtime = \"kubernetes\"\n[source]\nname = \"shop\"\napi = \"https://10.0.0.1\"\n", "--source-ca"),
        ("runtime = \"swarm\"\n[source]\nname = \"shop\"\n", "--source-port"),
        ("runtime = \"swarm\"\n[source]\nname = \"shop\"\nport = \"http\"\n", "want a number"),
        ("runtime = \"consul\"\n[source]\nname = \"shop\"\ntoken_file = \"/nonexistent\"\n", "/nonexistent"),
    ] {
        file.expect_refused(text, wrong);
    }
}
