//! Ringway's image as a balancer; and images that are not Ringway's: what their containers may do, by default and as set.

use std::net::SocketAddr;
use std::process::Command;

use crate::balancer::{Balancer, call};
use crate::lab::{Lab, docker, try_docker};

/// An image without Ringway's label, of one static program. The sweep of scripts/test_docker knows it by its name.
struct OwnImage(String);

impl OwnImage {
    fn import(lab: &mut Lab) -> OwnImage {
        let binary = std::env::var("RWTEST_BINARY").expect("run these tests through scripts/test_docker");
        let image = format!("{}-own", lab.image);
        let change = r#"--change 'ENTRYPOINT ["/serve"]'"#;
        let import = format!("tar -C / --transform 's,.*,serve,' -cP {binary} | docker import {change} - {image}");
        let made = Command::new("sh").args(["-c", &import]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        lab.image = image.clone();
        OwnImage(image)
    }
}

impl Drop for OwnImage {
    fn drop(&mut self) {
        try_docker(&["rmi", "-f", &self.0]);
    }
}

fn inspect(lab: &Lab, format: &str) -> String {
    docker(&["inspect", "-f", format, &lab.identities()[0]])
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn an_image_of_ones_own_is_confined_as_the_engine_does_it() {
    let mut lab = Lab::new("own");
    let image = OwnImage::import(&mut lab);
    let balancer = Balancer::start(&lab, 1, &["--docker-command", "replica"]);
    let host =
        "{{with .HostConfig}}{{.ReadonlyRootfs}} {{.CapDrop}} {{.SecurityOpt}} {{.Memory}} {{.PidsLimit}}{{end}}";
    assert_eq!(inspect(&lab, host), "false [] [] 0 <nil>");
    assert_eq!(inspect(&lab, "{{.Config.StopTimeout}}|{{.Config.User}}"), "10|");
    drop(balancer);
    drop(image);
}

#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn each_setting_of_a_container_reaches_it() {
    let mut lab = Lab::new("set");
    let image = OwnImage::import(&mut lab);
    let secret = std::env::temp_dir().join(format!("{}-secret", lab.cluster));
    std::fs::write(&secret, "s").unwrap();
    let given = format!("key={}", secret.display());
    let volume = format!("{}-data:/data", lab.cluster);
    let balancer = Balancer::start(
        &lab,
        1,
        &[
            &["--docker-command", "replica", "--docker-user", "65532:65532", "--docker-read-only"][..],
            &["--docker-tmpfs", "/tmp:size=1m", "--docker-volume", &volume, "--docker-secret", &given],
            &["--docker-cap-drop", "ALL", "--docker-cap-add", "CHOWN", "--docker-new-privileges=false"],
            &["--docker-memory", "64MiB", "--docker-pids", "50", "--docker-stop-timeout", "3s"],
        ]
        .concat(),
    );
    let host = "{{with .HostConfig}}{{.ReadonlyRootfs}} {{.CapDrop}} {{.CapAdd}} {{.SecurityOpt}} {{.Memory}} \
        {{.PidsLimit}} {{.Tmpfs}}{{end}}";
    let confined = format!("true [ALL] [CHOWN] [no-new-privileges] {} 50 map[/tmp:size=1m]", 64 << 20);
    assert_eq!(inspect(&lab, host), confined);
    assert_eq!(inspect(&lab, "{{.Config.StopTimeout}} {{.Config.User}} {{.Config.Cmd}}"), "3 65532:65532 [replica]");
    let mounts = inspect(&lab, "{{range .Mounts}}{{.Type}} {{.Destination}} {{.RW}}\n{{end}}");
    let mut mounts: Vec<&str> = mounts.lines().collect();
    mounts.sort_unstable();
    assert_eq!(mounts, ["bind /run/secrets/key false", "volume /data true"]);
    drop(balancer);
    docker(&["volume", "rm", &format!("{}-data", lab.cluster)]);
    std::fs::remove_file(secret).unwrap();
    drop(image);
}

/// `docker stop` sends what the image names, and a server that ends gently serves no new connection from then on.
#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn a_stop_signal_of_the_images_own_is_noticed() {
    let lab = Lab::new("stopsignal");
    let balancer = Balancer::spawn(&lab, &["--replicas", "0"]);
    balancer.wait("the network", || lab.network_exists());
    lab.run_foreign(
        &lab.name(1),
        &["--label", "ringway.enable=true", "--stop-signal", "SIGWINCH", "--stop-timeout", "60"],
    );
    balancer.wait("the container", || balancer.get("/home").is_some_and(|answer| answer.status == 200));
    // The replica ignores it, so that nothing but the signal says that it is to stop.
    docker(&["kill", "--signal", "WINCH", &lab.name(1)]);
    balancer.wait("the stop", || balancer.get("/home").is_some_and(|answer| answer.status == 503));
    assert!(balancer.log().contains("it was sent signal 28"), "{}", balancer.log());
    docker(&["rm", "-f", &lab.name(1)]);
}

/// With an init process it is not the container's first.
#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn a_published_port_of_the_image_reaches_the_balancer() {
    let lab = Lab::new("published-run");
    for (n, init) in [(1, "--init=false"), (2, "--init=true")] {
        let (name, owner) = (lab.name(n), format!("rwtest={}", lab.cluster));
        let flags = ["--name", &name, "--label", &owner, init, "-p", "127.0.0.1::8000", &lab.image, "run"];
        docker(&[&["run", "-d", "--rm"], &flags[..]].concat());
        let published: SocketAddr = docker(&["port", &name, "8000"]).parse().unwrap();
        let mut tries = 0..10_000;
        let answered = tries.any(|_| call(published, "GET", "/home", "").is_some_and(|answer| answer.status == 200));
        let log = try_docker(&["logs", &name]);
        let log = String::from_utf8_lossy(&log.stderr).into_owned();
        assert!(answered, "{init}: {log}");
        assert!(log.contains("the admin API answers on 127.0.0.1:8001 only"), "{log}");
        assert_ne!(call(published, "POST", "/add", r#"{"n":1}"#).unwrap().status, 200, "not for others");
        docker(&["stop", &name]);
    }
}
