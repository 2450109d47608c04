//! A jail around this very test program, which attacks it; and the same attack without a jail, which must succeed in
//! every act, or the acts would prove nothing.

use std::collections::BTreeSet;
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use fastmap_sandbox::jail::{Executable, Jail, Limits, PROBE, Spec, probe_if_asked, read_report};

#[path = "../../../tests/jails/src/machine.rs"]
#[allow(unreachable_pub, reason = "public where the tests of maps take it from")]
mod machine;

#[path = "../../../tests/programs/src/program_file.rs"]
#[allow(unreachable_pub, reason = "public where the tests of programs take it from")]
mod program_file;
mod tenant;

use program_file::write_program;
use tenant::{Tenant, group_of, until};

/// Before `main`, which belongs to the test harness.
const _: () = {
    extern "C" fn enter() {
        probe_if_asked();
        if std::env::var_os(SERVICE).is_some() {
            serve();
        }
        match std::env::var(TENANT).as_deref() {
            Ok("spin") => loop {
                std::hint::spin_loop();
            },
            Ok("id") => {
                println!("{} {}", std::process::id(), hostname());
                std::process::exit(0);
            }
            Ok(megabytes) => hold(megabytes.parse().expect("a number")),
            Err(_) => machine::leave_out_without_jails(),
        }
    }
    #[used]
    #[unsafe(link_section = ".init_array")]
    static ENTER: extern "C" fn() = enter;
};

/// Set for a process that is to find out whether it could serve, as the service does at its start.
const SERVICE: &str = "FASTMAP_TEST_SERVICE";

/// Set for a process that does its worst within its limits.
const TENANT: &str = "FASTMAP_TEST_TENANT";

/// The name of the machine, as a process sees it.
fn hostname() -> String {
    let mut name = [0u8; 64];
    // SAFETY: as long as it says.
    unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len()) };
    String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned()
}

/// Process ids and host names of some jailed processes, as they see themselves.
fn ids(jail: &Jail, processes: usize) -> Vec<(u32, String)> {
    let program = jail.program(&own()).expect("a place for it");
    let executable = Executable::examine(program.path()).expect("it runs here");
    let of_one = || {
        let environment = [(TENANT, "id")];
        let limits = Limits::default();
        let spec =
            Spec { executable: &executable, environment: &environment, zone: None, socket: None, limits };
        let (mut command, _guard) = jail.command(&spec).expect("a group can be made");
        let output = command.stdin(Stdio::null()).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout);
        let (id, host) = text.trim().split_once(' ').unwrap_or_else(|| panic!("{output:?}"));
        (id.parse().expect("a number"), host.to_owned())
    };
    (0..processes).map(|_| of_one()).collect()
}

/// Holds so much memory until it is ended.
fn hold(megabytes: usize) -> ! {
    let held = vec![1u8; megabytes << 20];
    loop {
        std::thread::sleep(Duration::from_secs(1));
        std::hint::black_box(&held);
    }
}

fn serve() -> ! {
    if std::env::var_os(SERVICE).is_some_and(|what| what == "killed") {
        let jail = jail();
        let tenant = Tenant::start(&jail, "spin", 64 << 20);
        println!("{}", tenant.group("memory").display());
        let _never = io::stdin().read_line(&mut String::new());
        std::process::exit(1);
    }
    // A path stands for a program that is not this one.
    let named = std::env::var_os(SERVICE).map(PathBuf::from).filter(|named| named.is_absolute());
    let program = named.unwrap_or_else(own);
    let attacked = Jail::check().and_then(|jail| Ok((jail.attack(&program)?.len(), jail)));
    match attacked {
        Ok((probes, jail)) => {
            println!("{probes} acts refused by {}", jail.describe());
            println!("{}", if differ(&ids(&jail, 4)) { "ids differ" } else { "the same ids" });
        }
        Err(refusal) => println!("refusal: {refusal}"),
    }
    std::process::exit(0);
}

/// Starts this program as an unprivileged user, in the given control groups.
fn serve_as_nobody(groups: &[PathBuf]) -> String {
    let doors = groups.iter().map(|group| format!("echo $$ >{}/cgroup.procs;", group.display()));
    let script = format!(
        "{} exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups \"$0\"",
        doors.collect::<String>()
    );
    // Where that user can start it, wherever this program lies.
    let folder =
        tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().expect("a folder");
    let program = folder.path().join("program");
    write_program(&program, File::open(own()).expect("it can be read"));
    let output =
        Command::new("sh").args(["-ec", &script]).arg(&program).env(SERVICE, "1").output().expect("a shell");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Nobody's number.
const NOBODY: u32 = 64_123;

fn own() -> PathBuf {
    std::env::current_exe().expect("/proc is there")
}

fn jail() -> Jail {
    machine::jail().expect("the tests are left out without")
}

/// A descriptor of this process that is not closed when another program is started.
fn stray() -> File {
    let file = File::open("/etc/passwd").expect("it can be read");
    // SAFETY: clears the flag of a descriptor of our own.
    assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) }, 0);
    file
}

#[test]
fn nothing_gets_out_of_a_jail_that_succeeds_outside() {
    let _stray = stray();
    let _others = tempfile::NamedTempFile::new_in("/tmp").expect("it can be written to");
    let jailed = jail().attack(&own()).expect("the jail holds");
    assert!(jailed.len() >= 85, "{}", jailed.len());
    let output = Command::new(own()).env(PROBE, "1").stdin(Stdio::null()).output().expect("it starts");
    let lines = String::from_utf8_lossy(&output.stdout);
    let free = read_report(&lines).unwrap_or_else(|| panic!("{lines} {output:?}"));
    // What this kernel was built without can't be shown to succeed: modules, and starting another kernel.
    let (missing, lame): (Vec<_>, Vec<_>) = free
        .iter()
        .filter_map(|(name, outcome)| outcome.as_ref().err().map(|how| (name, how)))
        .partition(|(name, how)| {
            how.contains("os error 38") && ["module", "kernel"].iter().any(|word| name.contains(word))
        });
    println!("not in this kernel: {missing:?}");
    assert!(missing.len() <= 6, "{missing:#?}");
    assert!(lame.is_empty(), "these prove nothing, for they fail without a jail, too: {lame:#?}");
}

#[test]
fn a_process_that_ends_before_it_has_tried_everything_is_no_proof() {
    // bubblewrap is a program that tries nothing.
    let error = jail().attack(Path::new("/usr/bin/bwrap")).expect_err("it proves nothing").to_string();
    assert!(error.contains("ended early"), "{error}");
}

fn run(code: &str, limits: Limits) -> (io::Result<std::process::Output>, fastmap_sandbox::jail::Usage) {
    let executable = Executable::examine(&own()).expect("it runs here");
    let environment = [("JAILED", code)];
    let spec = Spec { executable: &executable, environment: &environment, zone: None, socket: None, limits };
    let (mut command, guard) = jail().command(&spec).expect("a group can be made");
    let output = command.stdin(Stdio::null()).output();
    (output, guard.usage())
}

#[test]
fn a_jail_is_measured() {
    let (output, usage) = run("nothing", Limits::default());
    let output = output.expect("it runs");
    // The harness's main, which knows no such argument, has run its tests' list: what it did does not matter.
    assert!(output.status.code().is_some(), "{output:?}");
    assert!(usage.cpu.as_micros() > 100, "{usage:?}");
    assert!(usage.memory > 100_000, "{usage:?}");
    assert_eq!(usage.oom_kills, 0);
}

#[test]
fn a_service_that_may_make_no_groups_refuses_in_words() {
    let said = serve_as_nobody(&[]);
    assert!(said.starts_with("refusal: memory, processes and CPU of a jail can't be bounded: "), "{said}");
    assert!(said.contains("Permission denied"), "{said}");
}

#[test]
fn an_unprivileged_service_with_groups_of_its_own_makes_jails_too() {
    let own = std::fs::read_to_string("/proc/self/cgroup").expect("it is there");
    let name = format!("fastmap-test-{}", std::process::id());
    let mut folders = ["memory", "pids", "cpu", "cpuacct"].map(|of| group_of(&own, of).join(&name)).to_vec();
    folders.dedup();
    // The files of version 2 that are handed over with a group, as systemd does for `Delegate=`.
    let handed_over = ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"];
    for folder in &folders {
        std::fs::create_dir(folder).expect("this is root");
        for file in handed_over.map(|file| folder.join(file)).iter().filter(|file| file.exists()) {
            std::os::unix::fs::chown(file, Some(NOBODY), Some(NOBODY)).expect("this is root");
        }
    }
    let said = serve_as_nobody(&folders);
    for folder in &folders {
        // The group that the service itself went to, in version 2.
        let _none = std::fs::remove_dir(folder.join("fastmap-service"));
        std::fs::remove_dir(folder).expect("the service has left nothing in it");
    }
    assert!(said.contains("acts refused by bubblewrap"), "{said}");
    assert!(said.contains("the service's own user"), "{said}");
    assert!(said.contains("ids differ"), "{said}");
}

#[test]
fn a_program_that_only_its_owner_may_reach_and_execute_runs_in_a_jail() {
    let closed =
        tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().expect("a folder");
    let program = closed.path().join("program");
    write_program(&program, File::open(own()).expect("it can be read"));
    std::fs::set_permissions(&program, Permissions::from_mode(0o500)).expect("it is ours");
    jail().attack(&program).expect("the jail holds");
}

/// Whether no two are alike.
fn differ(ids: &[(u32, String)]) -> bool {
    let numbers: BTreeSet<u32> = ids.iter().map(|(number, _)| *number).collect();
    let names: BTreeSet<&str> = ids.iter().map(|(_, name)| name.as_str()).collect();
    (numbers.len(), names.len()) == (ids.len(), ids.len())
}

#[test]
fn process_ids_and_host_names_differ_from_worker_to_worker() {
    let ids = ids(&jail(), 6);
    // Else a few ids are used up for each.
    let lowest = if Path::new("/proc/sys/kernel/ns_last_pid").exists() { 1000 } else { 3 };
    let good = |(id, name): &(u32, String)| *id >= lowest && name.starts_with("fastmap-");
    assert!(differ(&ids) && ids.iter().all(good), "{ids:?}");
}

/// Mounted for a test.
struct Mounted(tempfile::TempDir);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_program_on_a_file_system_without_execution_is_copied_or_refused_in_words() {
    let mounted = Mounted(tempfile::tempdir().expect("a folder"));
    let options = ["-t", "tmpfs", "-o", "noexec", "fastmap-test"];
    let status = Command::new("mount").args(options).arg(mounted.0.path()).status().expect("it is there");
    assert!(status.success(), "{status}");
    let program = mounted.0.path().join("program");
    write_program(&program, File::open(own()).expect("it can be read"));
    jail().attack(&program).expect("the jail holds");
    // And where the temporary folder is no better.
    let mut service = Command::new("/proc/self/exe");
    let output = service.env(SERVICE, &program).env("TMPDIR", mounted.0.path()).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("(TMPDIR) is mounted noexec"), "{said} {output:?}");
}

/// As in a container or under systemd, with what deploy/ leaves of root's capabilities.
#[test]
fn a_service_that_may_mount_nothing_makes_jails_too() {
    let kept = "-all,+setuid,+setgid,+chown,+dac_override,+fowner,+kill";
    let closed =
        tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().expect("a folder");
    let program = closed.path().join("program");
    write_program(&program, File::open(own()).expect("it can be read"));
    let output = Command::new("setpriv")
        .args(["--no-new-privs", "--bounding-set", kept, "--inh-caps", "-all"])
        .arg(&program)
        .env(SERVICE, "1")
        .output()
        .expect("setpriv is there");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("acts refused by bubblewrap"), "{said} {output:?}");
    assert!(said.contains("a user for each worker"), "{said}");
    assert!(said.contains("ids differ"), "{said}");
}

/// In a user namespace whose maker is root there, with all numbers, and may make none inside.
#[test]
fn a_switch_that_forbids_user_namespaces_is_named() {
    if !machine::administers() {
        return machine::skipped("only root may give a namespace all numbers");
    }
    let none = "read mapped; echo 0 >/proc/sys/user/max_user_namespaces; exec \"$0\"";
    let mut service = Command::new("unshare");
    service.args(["--user", "--keep-caps", "sh", "-ec", none]).arg(own()).env(SERVICE, "1");
    let mut child = service.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("unshare is there");
    let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/user")).ok();
    let pid = child.id().to_string();
    until("its namespace", || of(&pid) != of("self"));
    for map in ["uid_map", "gid_map"] {
        let own = std::fs::read_to_string(format!("/proc/self/{map}")).expect("/proc is there");
        let numbers = own.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let same = numbers.map(|of| format!("{0} {0} {1}\n", of[0], of[2]));
        std::fs::write(format!("/proc/{pid}/{map}"), same.collect::<String>()).expect("root may map them");
    }
    child.stdin.take().expect("it is piped").write_all(b"\n").expect("it reads");
    let output = child.wait_with_output().expect("our own child");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("forbidden by user.max_user_namespaces=0: change it by sysctl"),
        "{said} {output:?}"
    );
}

/// CPU time of `many` for each second of `one`, all on one processor.
fn share(many: &[Tenant], one: &Tenant) -> f64 {
    let sum = || many.iter().map(|tenant| tenant.guard.cpu()).sum::<Duration>();
    // All are up.
    until("all have begun", || {
        many.iter().chain([one]).all(|tenant| tenant.guard.cpu() > Duration::from_millis(20))
    });
    let (before, own) = (sum(), one.guard.cpu());
    until("the one gets on", || one.guard.cpu().saturating_sub(own) > Duration::from_millis(150));
    let (theirs, own) = (sum().saturating_sub(before), one.guard.cpu().saturating_sub(own));
    theirs.as_secs_f64() / own.as_secs_f64()
}

#[test]
fn eight_spinners_of_one_account_take_no_more_than_another_accounts_only_worker() {
    // Those that this thread starts share a processor, so that there is something to share.
    // SAFETY: a set of our own, of this thread alone.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(0, &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set), 0);
    }
    let jail = jail();
    let memory = 64 << 20;
    // Two runs of the one, one of the other.
    let runs = [1, 1].map(|account| jail.for_run(account, 1 << 30).expect("groups"));
    let many: Vec<Tenant> = (0..8).map(|n| Tenant::start(&runs[n % 2], "spin", memory)).collect();
    let one = Tenant::start(&jail.for_run(2, 1 << 30).expect("groups"), "spin", memory);
    let fair = share(&many, &one);
    drop((many, one, runs));
    // The control: without accounts each has as much as the other.
    let many: Vec<Tenant> = (0..8).map(|_| Tenant::start(&jail, "spin", memory)).collect();
    let one = Tenant::start(&jail, "spin", memory);
    let unfair = share(&many, &one);
    assert!(fair < 2.0 && unfair > 4.0, "{fair} {unfair}");
}

#[test]
fn the_jails_of_an_account_have_their_memory_together_and_leave_no_group() {
    let jail = jail();
    let of = |account: i64| jail.for_run(account, 100 << 20).expect("groups");
    let (runs, other) = ([of(1), of(1)], of(2));
    let honest = Tenant::start(&other, "48", 64 << 20);
    // Each within its own limit; all of them beyond their account's.
    let greedy: Vec<Tenant> = (0..4).map(|n| Tenant::start(&runs[n % 2], "48", 64 << 20)).collect();
    let kills = || greedy.iter().map(|tenant| tenant.guard.usage().oom_kills).sum::<u64>();
    until("one of them is ended", || kills() > 0);
    assert_eq!(honest.guard.usage().oom_kills, 0);
    let group = honest.group("memory");
    let above: Vec<PathBuf> = group.ancestors().take(4).map(Path::to_owned).collect();
    assert!(above.iter().all(|folder| folder.is_dir()), "{above:?}");
    drop((honest, greedy, runs, other));
    // Worker, run and account; the service's goes with the last jail.
    assert!(above[..3].iter().all(|folder| !folder.exists()) && above[3].exists(), "{above:?}");
    drop(jail);
    assert!(!above[3].exists(), "{above:?}");
}

#[test]
fn what_a_dead_service_left_is_ended_and_what_a_living_one_has_is_not() {
    // A service that says where its jail's group is, and waits to be killed.
    let service = || {
        let mut child = Command::new(own())
            .env(SERVICE, "killed")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it can be started");
        let mut line = String::new();
        let mut lines = std::io::BufReader::new(child.stdout.take().expect("a pipe"));
        std::io::BufRead::read_line(&mut lines, &mut line).expect("a line");
        (child, PathBuf::from(line.trim()))
    };
    let ((mut dead, theirs), (mut living, ours)) = (service(), service());
    // What stands for bubblewrap's race: a process that its parent's death does not end.
    let mut stray = Command::new("sleep").arg("600").spawn().expect("it can be started");
    std::fs::write(theirs.join("cgroup.procs"), stray.id().to_string()).expect("this is root");
    dead.kill().and_then(|()| dead.wait()).expect("it is ours");
    assert!(theirs.is_dir(), "{theirs:?}");
    drop(jail());
    let ended = stray.wait().expect("it is ours");
    assert!(!ended.success());
    // Worker's and service's.
    assert!(theirs.ancestors().take(2).all(|folder| !folder.exists()), "{theirs:?}");
    assert!(ours.is_dir(), "{ours:?}");
    living.kill().and_then(|()| living.wait()).expect("it is ours");
    drop(jail());
    assert!(!ours.exists(), "{ours:?}");
}
