//! Uploads: resumed, and refused for what they are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fastmap_backends::cloud::{BlobStatus, digest};
use serde_json::Value;

use crate::client::{Client, Wrong, open_run, to_json};
use crate::server::{Server, until, worker};

#[test]
fn an_upload_is_resumed_where_it_broke_off() {
    let mut server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let bytes = vec![7; 1000];
    let hash = digest(&bytes);
    let packed = zstd::bulk::compress(&bytes, 1).expect("memory");
    let put = |at: usize, part: &[u8]| {
        client.call("PUT", &format!("/contexts/{hash}?offset={at}&total={}", packed.len()), part)
    };
    let status = || client.call("GET", &format!("/contexts/{hash}"), b"").json::<BlobStatus>(200);
    assert_eq!(status(), BlobStatus { present: false, offset: 0 });
    assert_eq!(client.call("HEAD", &format!("/contexts/{hash}"), b"").status, 404);
    assert_eq!(put(0, &packed[..5]).json::<BlobStatus>(202).offset, 5);
    server.kill();
    server.restart();
    assert_eq!(status(), BlobStatus { present: false, offset: 5 });
    assert_eq!(put(0, &packed[..5]).problem("upload_offset").offset, Some(5));
    assert_eq!(put(9, &packed[9..]).problem("upload_offset").offset, Some(5));
    assert_eq!(put(5, &[&packed[5..], b"more"].concat()).problem("upload_offset").offset, Some(5));
    assert!(put(5, &packed[5..]).json::<BlobStatus>(200).present);
    assert_eq!(status(), BlobStatus { present: true, offset: 0 });
    // Sent again, it is there.
    assert!(put(0, &packed[..5]).json::<BlobStatus>(200).present);
}

#[test]
fn what_is_whole_and_was_not_unpacked_before_the_service_died_is_unpacked() {
    let mut server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let bytes = vec![7; 1000];
    let hash = digest(&bytes);
    let packed = zstd::bulk::compress(&bytes, 1).expect("memory");
    let put = |total: usize, part: &[u8]| {
        client.call("PUT", &format!("/contexts/{hash}?offset=0&total={total}"), part)
    };
    assert_eq!(put(packed.len(), &packed[..5]).status, 202);
    server.kill();
    let part = std::fs::read_dir(server.data().join("uploads")).expect("a folder").next().expect("a part");
    std::fs::write(part.expect("a part").path(), &packed).expect("room");
    server.restart();
    let status = || client.call("GET", &format!("/contexts/{hash}"), b"").json::<BlobStatus>(200);
    assert_eq!(status(), BlobStatus { present: false, offset: packed.len() as u64 });
    assert!(put(packed.len(), &packed).json::<BlobStatus>(200).present);
    assert!(status().present);
    assert_eq!(std::fs::read_dir(server.data().join("uploads")).expect("a folder").count(), 0);
}

#[test]
fn what_another_version_has_begun_is_begun_anew() {
    let server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let bytes = vec![7; 1000];
    let hash = digest(&bytes);
    let packed = zstd::bulk::compress(&bytes, 1).expect("memory");
    let put = |total: usize, part: &[u8]| {
        client.call("PUT", &format!("/contexts/{hash}?offset=0&total={total}"), part)
    };
    assert_eq!(put(1000, &[1; 900]).status, 202);
    assert_eq!(put(packed.len(), &packed).problem("upload_offset").offset, Some(0));
    assert!(put(packed.len(), &packed).json::<BlobStatus>(200).present);
}

#[test]
fn who_leaves_before_the_answer_goes_on_where_it_was() {
    let server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let bytes = std::fs::read(worker()).expect("the worker is built");
    let hash = digest(&bytes);
    let packed = zstd::bulk::compress(&bytes, 1).expect("memory");
    let put = |client: &Client, offset: usize, part: &[u8]| {
        let target = format!("/executables/{hash}?offset={offset}&total={}", packed.len());
        client.try_call("PUT", &target, part, &Wrong::default())
    };
    let half = packed.len() / 2;
    assert_eq!(put(&client, 0, &packed[..half]).expect("an answer").status, 202);
    let (mut left, mut patience) = (0, Duration::from_millis(1));
    until("the program", || {
        let status: BlobStatus = client.call("GET", &format!("/executables/{hash}"), b"").json(200);
        if status.present {
            return Some(());
        }
        let part = if status.offset == packed.len() as u64 { 0..half } else { half..packed.len() };
        match put(&client.clone().answered_within(patience), part.start, &packed[part]) {
            Ok(reply) if reply.status == 200 => {}
            // The part that came before is being unpacked.
            Ok(reply) => assert_eq!(reply.problem("too_many_requests").retry_after, Some(1)),
            Err(_) => left += 1,
        }
        // From before its body is read to after it was unpacked.
        patience += Duration::from_millis(2);
        None
    });
    assert!(left > 0, "answered before anybody could leave");
}

#[test]
fn what_is_not_what_its_name_says_is_refused_and_forgotten() {
    let server = Server::start(&["--max-executable", "100000"]);
    let client = server.tenant("a", "1000");
    let put = |kind: &str, hash: &str, bytes: &[u8]| {
        client.call("PUT", &format!("/{kind}/{hash}?offset=0&total={}", bytes.len()), bytes)
    };
    let packed = |bytes: &[u8]| zstd::bulk::compress(bytes, 1).expect("memory");
    let name = digest(b"something");
    put("contexts", &name, &packed(b"something else")).problem("hash_mismatch");
    put("contexts", &name, b"no zstd at all").problem("invalid_body");
    let whole = packed(b"something");
    put("contexts", &name, &whole[..whole.len() - 3]).problem("invalid_body");
    let script = b"#!/bin/sh\necho hello\n";
    put("executables", &digest(script), &packed(script)).problem("not_executable");
    // A zstd frame of a few bytes that unpacks to more than is allowed.
    let bomb = vec![0; 10_000_000];
    put("executables", &digest(&bomb), &packed(&bomb)).problem("too_large");
    let target = format!("/executables/{name}?offset=0&total=99999999999");
    client.call("PUT", &target, b"x").problem("too_large");
    client.call("PUT", &format!("/executables/{name}?offset=0&total=0"), b"").problem("too_large");
    // A program for another processor.
    let mut program = std::fs::read("/bin/true").expect("it is there");
    program[18] = 0xf3;
    let problem = put("executables", &digest(&program), &packed(&program)).problem("not_executable");
    assert!(problem.detail.contains("build it for"), "{problem}");
    for hash in [&name, &digest(script), &digest(&bomb)] {
        for kind in ["contexts", "executables"] {
            let status: BlobStatus = client.call("GET", &format!("/{kind}/{hash}"), b"").json(200);
            assert_eq!(status, BlobStatus { present: false, offset: 0 });
        }
    }
    assert_eq!(std::fs::read_dir(server.data().join("uploads")).expect("a folder").count(), 0);
    let left = std::fs::read_dir(server.data().join("executables")).expect("a folder").count();
    assert_eq!(left, 0, "temporary files are left");
}

/// Bytes that can't be compressed.
fn noise(seed: u64) -> Vec<u8> {
    much_noise(seed, 60_000)
}

fn much_noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut x = seed;
    let mut next = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (x >> 56) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

fn is_there(client: &Client, kind: &str, hash: &str) -> bool {
    client.call("GET", &format!("/{kind}/{hash}"), b"").json::<BlobStatus>(200).present
}

#[test]
fn an_account_stores_so_much_and_what_it_has_not_used_for_longest_goes() {
    // Room for one of these, packed and unpacked, as they lie on the disk.
    let server = Server::start(&["--max-stored", "140000"]);
    let (client, other) = (server.tenant("a", "1000"), server.tenant("b", "1000"));
    let put = |bytes: &[u8], upto: usize| {
        let packed = zstd::bulk::compress(bytes, 1).expect("memory");
        let target = format!("/contexts/{}?offset=0&total={}", digest(bytes), packed.len());
        client.call("PUT", &target, &packed[..packed.len().min(upto)])
    };
    let files = || std::fs::read_dir(server.data().join("contexts")).expect("a folder").count();
    let first = client.upload("contexts", &noise(1), 1 << 20);
    other.upload("contexts", &noise(1), 1 << 20);
    let second = client.upload("contexts", &noise(2), 1 << 20);
    assert!(!is_there(&client, "contexts", &first) && is_there(&client, "contexts", &second));
    assert!(is_there(&other, "contexts", &first), "it is another account's as well");
    let third = client.upload("contexts", &noise(3), 1 << 20);
    assert!(!is_there(&client, "contexts", &second) && is_there(&client, "contexts", &third));
    assert_eq!(files(), 2, "what nobody has any more takes no room");
    // Whatever little it is before it is unpacked.
    let problem = put(&vec![0; 150_000], 1 << 20).problem("too_large");
    assert!(problem.detail.contains("at most 140000 bytes"), "{problem}");
    // Also in parts that are never finished.
    assert_eq!(put(&noise(4), 30_000).status, 202);
    put(&noise(5), 30_000).problem("too_large");
}

#[test]
fn what_an_open_run_needs_is_not_forgotten() {
    let program = std::fs::read(worker()).expect("the worker is built");
    let packed = zstd::bulk::compress(&program, 1).expect("memory").len();
    // Room for the program while it is unpacked, and afterwards not for as much noise as it has packed,
    // twice.
    let server = Server::start(&["--max-stored", &(program.len() + packed + 50_000).to_string()]);
    let client = server.tenant("a", "1000");
    let executable = client.upload_worker();
    let run = client.open(&executable);
    let bytes = much_noise(1, packed);
    let context = zstd::bulk::compress(&bytes, 1).expect("memory");
    let target = format!("/contexts/{}?offset=0&total={}", digest(&bytes), context.len());
    let problem = client.call("PUT", &target, &context[..1000]).problem("too_large");
    assert!(problem.detail.contains("its open runs need what is there"), "{problem}");
    assert_eq!(client.batch(&run, 1, &["e"]).status, 200);
    client.call("POST", &format!("/runs/{run}/done"), b"");
    client.upload("contexts", &bytes, 4 << 20);
    assert!(!is_there(&client, "executables", &executable));
    client.call("POST", "/runs", &to_json(&open_run(&executable, "obey"))).problem("not_found");
    // Uploaded again it is there again.
    let again = client.open(&client.upload_worker());
    assert_eq!(client.batch(&again, 1, &["e"]).status, 200);
}

#[test]
fn a_program_that_can_not_work_here_says_so_when_its_run_is_opened() {
    let server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let open = |executable: &str, function: &str| {
        client.call("POST", "/runs", &to_json(&open_run(executable, function)))
    };
    let missing = digest(b"nothing");
    open(&missing, "obey").problem("not_found");

    let stranger = client.upload("executables", &std::fs::read("/bin/true").expect("it is there"), 1 << 20);
    let problem = open(&stranger, "obey").problem("worker_failed");
    assert!(problem.detail.contains("exit(0)"), "{problem}");

    // The loader's own words: a library that is not there.
    let mut program = std::fs::read(worker()).expect("it is there");
    let libc = b"libc.so.6\0";
    let at = program.windows(libc.len()).position(|bytes| bytes == libc).expect("it needs libc");
    program[at..at + 3].copy_from_slice(b"xyz");
    let broken = client.upload("executables", &program, 8 << 20);
    let problem = open(&broken, "obey").problem("worker_failed");
    assert!(problem.detail.contains("xyzc.so.6"), "{problem}");

    let executable = client.upload_worker();
    let run: Value = open(&executable, "broken").json(201);
    let run = run["run"].as_str().expect("a name");
    let problem = client.batch(run, 0, &["e"]).problem("setup_failed");
    assert!(problem.detail.contains("init said no"), "{problem}");
    // From now on the run says why it failed.
    client.batch(run, 1, &["e"]).problem("setup_failed");
    let info: Value = client.call("GET", &format!("/runs/{run}"), b"").json(200);
    assert_eq!((&info["state"], &info["held"], &info["spent"]), (&"failed".into(), &0.into(), &0.into()));
    server.audit();
}

#[test]
fn a_file_that_no_account_has_is_gone_after_the_next_start() {
    let mut server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let hash = client.upload("contexts", b"whole", 100);
    server.kill();
    let contexts = server.data().join("contexts");
    for name in [digest(b"of no account"), ".begun-abcdef".to_owned()] {
        std::fs::write(contexts.join(name), b"left").expect("room");
    }
    server.restart();
    assert!(is_there(&client, "contexts", &hash));
    if server.database().is_none() {
        let left = std::fs::read_dir(contexts).expect("a folder").count();
        assert_eq!(left, 1, "what is the account's stays, and all else goes");
    }
}

/// A program that does nothing, made by the C compiler with these arguments.
fn compiled(folder: &Path, name: &str, source: &str, arguments: &[&str]) -> PathBuf {
    let (text, program) = (folder.join(format!("{name}.c")), folder.join(name));
    std::fs::write(&text, source).expect("room");
    let status = Command::new("cc").arg(&text).arg("-o").arg(&program).args(arguments).status();
    assert!(status.expect("a C compiler").success(), "{name}");
    program
}

/// Programs that are built on a newer distribution, or on one whose loader is elsewhere: each is refused when it is uploaded,
/// with what it needs and what to do.
#[test]
fn a_program_of_another_distribution_is_refused_at_its_upload_with_what_it_needs() {
    let Some(server) = Server::start_jailed(&[]) else { return };
    let client = server.tenant("a", "1000");
    let refused = |program: &Path| {
        let bytes = std::fs::read(program).expect("it was built");
        let packed = zstd::bulk::compress(&bytes, 1).expect("memory");
        let hash = digest(&bytes);
        let target = format!("/executables/{hash}?offset=0&total={}", packed.len());
        let detail = client.call("PUT", &target, &packed).problem("not_executable").detail;
        assert!(!is_there(&client, "executables", &hash), "it is kept");
        detail
    };
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let advice = format!("cargo build --release --target {}-unknown-linux-musl", std::env::consts::ARCH);

    // The C library of a system that does not exist yet.
    std::fs::write(folder.join("versions"), "GLIBC_2.98 { older; };\nGLIBC_2.99 { newer; } GLIBC_2.98;\n")
        .expect("room");
    let script = format!("-Wl,--version-script={}", folder.join("versions").display());
    let source = "int newer(void) { return 0; } int older(void) { return 0; }";
    let library =
        compiled(folder, "newer.so", source, &["-shared", "-fPIC", "-Wl,-soname,libc.so.6", &script]);
    let source = "int newer(void); int older(void); void _start(void) { newer(); older(); for (;;); }";
    let newer = compiled(folder, "newer", source, &["-nostdlib", library.to_str().expect("text")]);
    let detail = refused(&newer);
    assert!(
        detail.contains("needs GLIBC_2.99 of libc.so.6, and this machine has up to GLIBC_2."),
        "{detail}"
    );
    assert!(detail.ends_with(&advice), "{detail}");

    // The loader of a system that has none of the usual folders.
    let loader = "/nix/store/00000000000000000000000000000000-glibc-2.40/lib/ld-linux.so.2";
    let elsewhere = "int main(void) { return 0; }";
    let elsewhere = compiled(folder, "elsewhere", elsewhere, &[&format!("-Wl,--dynamic-linker={loader}")]);
    let detail = refused(&elsewhere);
    assert!(detail.contains(&format!("asks for the loader {loader}, and jails here have /lib")), "{detail}");
    assert!(detail.ends_with(&advice), "{detail}");

    // A library that is not here.
    let missing = compiled(
        folder,
        "libmissing.so",
        "int absent(void) { return 0; }",
        &["-shared", "-fPIC", "-Wl,-soname,libmissing.so"],
    );
    let needs = "int absent(void); int main(void) { return absent(); }";
    let needs = compiled(folder, "needs", needs, &[missing.to_str().expect("text")]);
    let detail = refused(&needs);
    assert!(detail.contains("needs the library libmissing.so (for itself)"), "{detail}");
    assert!(detail.ends_with(&advice), "{detail}");

    // And what needs none of them is taken.
    let alone = compiled(folder, "alone", "int main(void) { return 0; }", &["-static-pie", "-fPIE"]);
    let alone = client.upload("executables", &std::fs::read(alone).expect("it was built"), 1 << 20);
    assert!(is_there(&client, "executables", &alone));
}
