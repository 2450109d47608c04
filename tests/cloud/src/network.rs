//! Machines: network namespaces, each with an address of its own, on one switch.

use std::fs::File;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use fastmap_test_programs::Running;
use nix::sched::{CloneFlags, setns};

/// A switch (a bridge in a namespace of its own). Dropping it takes all machines away.
#[derive(Debug)]
pub struct Network {
    switch: String,
    machines: Vec<String>,
}

/// A machine on it.
#[derive(Clone, Debug)]
pub struct Machine {
    namespace: String,
    switch: String,
    port: String,
    /// Its address.
    pub address: String,
}

impl Network {
    /// An empty one. `None`: this user may not make any.
    pub fn new() -> Option<Network> {
        static NETWORKS: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let switch = format!("fastmap-{}-{number}", std::process::id());
        ip(&["netns", "add", &switch]);
        let network = Network { switch, machines: Vec::new() };
        ip(&["-n", &network.switch, "link", "add", "switch", "type", "bridge"]);
        ip(&["-n", &network.switch, "link", "set", "switch", "up"]);
        Some(network)
    }

    /// One machine more.
    pub fn machine(&mut self) -> Machine {
        let number = self.machines.len() + 1;
        let (switch, namespace) = (self.switch.clone(), format!("{}-{number}", self.switch));
        let (address, port) = (format!("10.213.0.{number}"), format!("port{number}"));
        ip(&["netns", "add", &namespace]);
        self.machines.push(namespace.clone());
        ip(&["link", "add", "eth0", "netns", &namespace, "type", "veth", "peer", &port, "netns", &switch]);
        ip(&["-n", &switch, "link", "set", &port, "master", "switch", "up"]);
        ip(&["-n", &namespace, "address", "add", &format!("{address}/24"), "dev", "eth0"]);
        ip(&["-n", &namespace, "link", "set", "eth0", "up"]);
        ip(&["-n", &namespace, "link", "set", "lo", "up"]);
        Machine { namespace, switch, port, address }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in self.machines.iter().chain([&self.switch]) {
            let _gone = Command::new("ip").args(["netns", "delete", namespace]).status();
        }
    }
}

impl Machine {
    /// Its name.
    pub fn name(&self) -> String {
        self.namespace.clone()
    }

    /// Does something on it: sockets that are made and processes that are started are on this machine.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.namespace)).expect("it was made");
        std::thread::scope(|scope| {
            let there = scope.spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET).expect("this user may");
                work()
            });
            there.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a program on it.
    pub fn start(&self, command: &mut Command) -> Running {
        self.inside(|| Running::start(command))
    }

    /// Pulls its cable.
    pub fn cut(&self) {
        ip(&["-n", &self.switch, "link", "set", &self.port, "down"]);
    }

    /// It can't answer that one any more: there is no way between them but by others.
    pub fn refuse(&self, other: &Machine) {
        ip(&["-n", &self.namespace, "route", "add", "blackhole", &format!("{}/32", other.address)]);
    }

    /// Plugs it in again.
    pub fn mend(&self) {
        ip(&["-n", &self.switch, "link", "set", &self.port, "up"]);
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("iproute2 is there (scripts/setup test)");
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
