//! Reloads that change what containers are started with, and upgrades, each under load.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;

use crate::balancer::{Balancer, TIMEOUT, signal};
use crate::lab::{Lab, Rule, docker, try_docker};
use crate::load::{SteadyClient, bodies, failures};

/// A file whose `[docker]` table a test changes, for a balancer of three containers.
struct Settings {
    file: PathBuf,
    health: &'static str,
}

impl Settings {
    fn new(lab: &Lab) -> Settings {
        let file = std::env::temp_dir().join(format!("{}.toml", lab.cluster));
        let settings = Settings { file, health: "[health]\nstart_timeout = \"3s\"\n" };
        settings.write("");
        settings
    }

    /// `docker` is what containers are started with, beside the flags.
    fn write(&self, docker: &str) {
        std::fs::write(&self.file, format!("{}[docker]\n{docker}\n", self.health)).unwrap();
    }

    fn start(&self, lab: &Lab) -> Balancer {
        Balancer::start(lab, 3, &["--config", self.file.to_str().unwrap()])
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

fn reload(balancer: &Balancer) -> String {
    let answer = balancer.admin("POST", "/reload", "");
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

/// A setting of each container that runs, by name.
fn each(lab: &Lab, format: &str) -> Vec<String> {
    let format = format!("{{{{.Name}}}} {format}");
    // One that is replaced may be gone by now.
    let inspected = lab.serving().into_iter().map(|name| try_docker(&["inspect", "-f", &format, &name]).stdout);
    let mut all: Vec<String> = inspected.map(|line| String::from_utf8_lossy(&line).trim().to_owned()).collect();
    all.sort();
    all
}

/// Of the environment, what begins with `MODE`.
const MODE: &str = r#"{{range .Config.Env}}{{if eq (slice . 0 4) "MODE"}}{{.}}{{end}}{{end}}"#;

fn with_mode(names: &[String], mode: &str) -> Vec<String> {
    names.iter().map(|name| format!("/{name} {mode}")).collect()
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn a_changed_environment_is_rolled_out_and_a_command_that_fails_is_taken_back() {
    let lab = Lab::new("rolling");
    let settings = Settings::new(&lab);
    let balancer = settings.start(&lab);
    let names = balancer.names();
    let client = SteadyClient::start(balancer.data);
    settings.write("env = [\"MODE=2\"]");
    let body = reload(&balancer);
    assert!(body.contains(r#""rolling":["default"]"#) && body.contains(r#""needs_restart":[]"#), "{body}");
    balancer.wait("the new environment", || each(&lab, MODE) == with_mode(&names, "MODE=2"));
    balancer.wait("the end", || balancer.log().contains("rolling replacement done: 3 replicas replaced"));
    let before = lab.identities();
    settings.write("env = [\"MODE=3\"]\ncommand = [\"no-such-command\"]");
    reload(&balancer);
    balancer.wait("the way back", || balancer.log().contains("two in a row did not come up"));
    balancer.wait("the failed ones to be gone", || lab.containers().len() == 3);
    assert_eq!(lab.identities(), before, "none was replaced");
    settings.write("env = [\"MODE=4\"]");
    reload(&balancer);
    balancer.wait("the newest", || each(&lab, MODE) == with_mode(&names, "MODE=4"));
    let samples = client.finish();
    assert_eq!((failures(&samples), bodies(&samples).len()), (0, 3), "{}", balancer.log());
}

/// An image of ours under a tag of its own that can be moved, and what was built under it.
struct Tag(String, Vec<String>);

impl Tag {
    fn of(lab: &mut Lab, image: &str) -> Tag {
        let tag = Tag(format!("{image}-moved"), Vec::new());
        tag.move_to(image);
        lab.image.clone_from(&tag.0);
        tag
    }

    fn move_to(&self, image: &str) {
        docker(&["tag", image, &self.0]);
    }

    /// The image again, with another entry point.
    fn rebuild(&mut self, image: &str, entrypoint: &str) {
        let from =
            format!("printf 'FROM {image}\\n{entrypoint}\\n' | DOCKER_BUILDKIT=0 docker build -q -t {} -", self.0);
        let built = Command::new("sh").args(["-c", &from]).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        self.1.push(String::from_utf8_lossy(&built.stdout).trim().to_owned());
    }
}

impl Drop for Tag {
    fn drop(&mut self) {
        try_docker(&["rmi", "-f", &self.0]);
        self.1.iter().for_each(|built| drop(try_docker(&["rmi", "-f", built])));
    }
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn an_image_rebuilt_under_its_tag_is_rolled_out_and_taken_back_where_it_is_broken() {
    let mut lab = Lab::new("rebuilt");
    let original = lab.image.clone();
    let mut tag = Tag::of(&mut lab, &original);
    let settings = Settings::new(&lab);
    let balancer = settings.start(&lab);
    let names = balancer.names();
    let image = |of: &str| docker(&["image", "inspect", "-f", "{{.Id}}", of]);
    let images = |id: &str| with_mode(&names, id);
    let client = SteadyClient::start(balancer.data);
    tag.rebuild(&original, "LABEL build=2");
    let second = image(&tag.0);
    let body = reload(&balancer);
    assert!(body.contains(r#""rolling":["default"]"#), "{body}");
    balancer.wait("the rebuilt image", || each(&lab, "{{.Image}}") == images(&second));
    balancer.wait("the end", || balancer.log().contains("rolling replacement done: 3 replicas replaced"));
    assert!(reload(&balancer).contains(r#""rolling":[]"#), "it is the same image");
    tag.rebuild(&original, "ENTRYPOINT [\"/nothing\"]");
    reload(&balancer);
    balancer.wait("the way back", || balancer.log().contains("two in a row did not come up"));
    balancer.wait("the failed ones to be gone", || lab.containers().len() == 3);
    // Its replacement has the image before, though the tag means the broken one.
    docker(&["kill", &names[0]]);
    let healed = || lab.serving() == names && each(&lab, "{{.Image}}") == images(&second);
    balancer.wait("the killed one", healed);
    // An image that is not there is refused at once.
    docker(&["rmi", "-f", &tag.0]);
    settings.write("env = [\"MODE=2\"]");
    let refused = balancer.admin("POST", "/reload", "");
    assert!((400..600).contains(&refused.status) && refused.body.contains(&tag.0), "{}", refused.body);
    let samples = client.finish();
    assert_eq!(failures(&samples), 0, "{}", balancer.log());
    drop((balancer, tag));
}

/// SIGUSR2: the new process goes on with the containers of the old one.
#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn an_upgrade_adopts_the_containers_and_replaces_those_that_have_other_settings() {
    let lab = Lab::new("upgrade");
    let settings = Settings::new(&lab);
    let mut balancer = settings.start(&lab);
    let (names, before) = (balancer.names(), lab.identities());
    let clients: Vec<SteadyClient> = (0..4).map(|_| SteadyClient::start(balancer.data)).collect();
    let first = balancer.process();
    balancer.upgrade();
    assert_ne!(balancer.process(), first);
    assert_eq!((lab.identities(), balancer.names()), (before, names.clone()), "adopted, not restarted");
    assert_eq!(balancer.log().matches("adopted").count(), 3, "{}", balancer.log());
    docker(&["kill", &names[0]]);
    balancer.wait("the killed one", || lab.serving() == names && balancer.replicas_answering(3));
    settings.write("env = [\"MODE=2\"]");
    balancer.upgrade();
    balancer.wait("the new environment", || each(&lab, MODE) == with_mode(&names, "MODE=2"));
    balancer.wait("the end", || balancer.log().contains("rolling replacement done: 3 replicas replaced"));
    for client in clients {
        let samples = client.finish();
        assert_eq!((failures(&samples), bodies(&samples).len()), (0, 3), "{}", balancer.log());
    }
    assert_eq!(balancer.stop(), Some(0));
    assert!(lab.containers().is_empty() && lab.locks().is_empty(), "{:?}", lab.containers());
}

/// The containers serve the process before as long as that has requests.
#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn a_stop_right_after_an_upgrade_cuts_no_request_of_the_process_before() {
    let lab = Lab::new("upstop");
    let mut balancer = Balancer::start(&lab, 1, &[]);
    let mut client = TcpStream::connect(balancer.data).unwrap();
    client.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut answers = BufReader::new(client.try_clone().unwrap());
    let head = "GET /home HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n";
    client.write_all(format!("{head}12{head}1").as_bytes()).unwrap();
    assert_eq!(status(&mut answers), "HTTP/1.1 200 OK", "the first one");
    let before = balancer.begin_upgrade();
    signal("TERM", balancer.process());
    balancer.wait("the workers to end", || balancer.log().contains("this one ends after it"));
    client.write_all(b"2").unwrap();
    assert_eq!(status(&mut answers), "HTTP/1.1 200 OK", "the second one, over the stop\n{}", balancer.log());
    balancer.await_end(before);
    balancer.await_end(balancer.process());
    assert!(lab.containers().is_empty() && lab.locks().is_empty(), "{:?}", lab.containers());
}

/// The status line of the next response, which is read whole.
fn status(answers: &mut impl BufRead) -> String {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        assert!(answers.read_line(&mut line).unwrap() > 0, "the connection ended behind {lines:?}");
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let length = lines.iter().find_map(|line| line.strip_prefix("Content-Length: ")).expect("a length");
    answers.read_exact(&mut vec![0; length.parse().unwrap()]).unwrap();
    lines.swap_remove(0)
}

/// One container hangs: it is left out, and the upgrade goes on.
#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn a_container_that_hangs_keeps_no_upgrade_waiting() {
    let lab = Lab::new("uphang");
    let mut balancer = Balancer::start(&lab, 3, &["--upgrade-timeout", "20s"]);
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let silent = Rule::add(&docker(&["inspect", "-f", format, &balancer.names()[1]]), &["DROP"]);
    balancer.upgrade();
    let client = SteadyClient::start(balancer.data);
    drop(silent);
    balancer.wait("all three", || balancer.replicas_answering(3));
    assert_eq!(failures(&client.finish()), 0, "{}", balancer.log());
    assert_eq!(balancer.stop(), Some(0));
    assert!(lab.containers().is_empty(), "{:?}", lab.containers());
}
