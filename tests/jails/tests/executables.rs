//! Executables that strangers send: those that run here do, also when the host is another program; the others are refused
//! in words, before anything is started where that can be seen from the file.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use fastmap::backends::{Backend, BackendError, FunctionId, Job, Local, Run};
use fastmap::{Error, ErrorKind};
use fastmap_backends::local::Jailed;
use fastmap_sandbox::elf::ElfError;
use fastmap_test_jails::{config, copy, jail, limits, pool};
use fastmap_test_programs::write_program;
use tempfile::TempDir;

fastmap::test_support!();

const STRANGER: &str = env!("CARGO_BIN_EXE_stranger");

/// A pool whose workers are another program: the function's name is the one that it has there.
#[derive(Debug)]
struct Elsewhere(Local, FunctionId);

impl Backend for Elsewhere {
    fn name(&self) -> &'static str {
        "elsewhere"
    }

    fn open(&self, job: Arc<Job>) -> Result<Box<dyn Run>, BackendError> {
        self.0.open(Arc::new(Job { function: self.1.clone(), ..(*job).clone() }))
    }
}

fn run(path: &Path, function: FunctionId) -> Vec<Result<u64, Error>> {
    let jailed = Arc::new(Jailed::new(jail(), path, limits()).expect("it runs here"));
    let config = config(Elsewhere(pool(&jailed, 2), function));
    config
        .fastmap(|_: u64| -> u64 { unreachable!("this program's own function is never called") }, 0..1000)
        .collect()
}

fn cube() -> FunctionId {
    let told = Command::new(STRANGER).output().expect("it runs");
    let told = String::from_utf8(told.stdout).expect("text");
    let (offset, name) = told.trim().split_once(' ').expect("an offset and a name");
    FunctionId { offset: offset.parse().expect("a number"), name: name.to_owned() }
}

#[test]
fn a_program_that_the_host_is_not_runs_its_own_functions() {
    let (_folder, path) = copy(Path::new(STRANGER));
    let results: Vec<u64> = run(&path, cube()).into_iter().collect::<Result<_, _>>().expect("no item fails");
    assert!(results.into_iter().eq((0..1000).map(|n| n * n * n)));
}

#[test]
fn a_function_that_the_program_has_not_is_an_error_of_the_map() {
    let (_folder, path) = copy(Path::new(STRANGER));
    let results = run(&path, FunctionId { offset: cube().offset, name: "another".to_owned() });
    let error = results[0].as_ref().expect_err("there is none");
    assert!(error.to_string().contains("the function another was sought"), "{error}");
}

fn refused(path: &Path) -> ElfError {
    Jailed::new(jail(), path, limits()).expect_err("it can't run here")
}

/// A file with these bytes, executable.
fn file(bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("upload");
    write_program(&path, bytes);
    (folder, path)
}

fn stranger() -> Vec<u8> {
    std::fs::read(STRANGER).expect("it can be read")
}

#[test]
fn what_is_no_program_is_refused_in_words() {
    let said = |bytes: &[u8]| refused(&file(bytes).1).to_string();
    assert!(said(b"#!/bin/sh\nexit 0\n").contains("is a script"));
    assert!(said(b"just text").contains("not an executable for Linux"));
    assert!(said(b"").contains("not an executable for Linux"));
    let stranger = stranger();
    assert!(
        said(&stranger[..stranger.len() / 2]).contains("damaged"),
        "{}",
        said(&stranger[..stranger.len() / 2])
    );
    assert!(refused(Path::new("/none/at/all")).to_string().contains("No such file"));
    // One of this process's own libraries.
    let maps = std::fs::read_to_string("/proc/self/maps").expect("proc is there");
    let mut files = maps.lines().filter_map(|line| line.split_ascii_whitespace().nth(5));
    let library = files.find(|path| path.ends_with("/libgcc_s.so.1")).expect("it is linked with it");
    let (_folder, path) = file(&std::fs::read(library).expect("it can be read"));
    assert!(refused(&path).to_string().contains("a library"));
}

#[test]
fn another_architecture_is_named() {
    let mut bytes = stranger();
    let here = std::env::consts::ARCH;
    let (there, machine) = if here == "aarch64" { ("x86_64", 62u16) } else { ("aarch64", 183) };
    bytes[18..20].copy_from_slice(&machine.to_le_bytes());
    let said = refused(&file(&bytes).1).to_string();
    assert!(said.contains(&format!("is for {there}, and the workers of this machine are {here}")), "{said}");
}

/// Replaces a string among the file's own by one of the same length.
fn replaced(from: &str, to: &str) -> Vec<u8> {
    let mut bytes = stranger();
    let (from, to) = (format!("\0{from}\0"), format!("\0{to}\0"));
    let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).expect("it stands there");
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    bytes
}

fn versions() -> Vec<String> {
    let elf = fastmap_sandbox::elf::read(Path::new(STRANGER)).expect("it runs here");
    let mut versions: Vec<String> =
        elf.versions["libc.so.6"].iter().filter(|name| name.len() == 10).cloned().collect();
    versions.sort();
    versions
}

#[test]
fn a_newer_glibc_is_named_beside_what_is_here() {
    let newest = versions().pop().expect("it needs some");
    let bytes = replaced(&newest, "GLIBC_2.99");
    let said = refused(&file(&bytes).1).to_string();
    assert!(said.contains("needs GLIBC_2.99 of libc.so.6, and this machine has up to GLIBC_2."), "{said}");
}

#[test]
fn a_missing_library_is_named() {
    let bytes = replaced("libgcc_s.so.1", "libnone.so.99");
    let said = refused(&file(&bytes).1).to_string();
    assert!(said.contains("needs the library libnone.so.99 (for itself)"), "{said}");
}

#[test]
fn another_loader_is_named() {
    let mut bytes = stranger();
    let elf = fastmap_sandbox::elf::read(Path::new(STRANGER)).expect("it runs here");
    let from = elf.interpreter.expect("it has a loader").into_os_string().into_encoded_bytes();
    let to = format!("{:9<1$}", "/home/me/own-ld.so.", from.len());
    let at = bytes.windows(from.len()).position(|window| window == from).expect("its own path");
    bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
    let said = refused(&file(&bytes).1).to_string();
    assert!(said.contains(&format!("asks for the loader {to}")), "{said}");
}

/// What a map says whose workers are that program.
fn said_of(path: &Path) -> String {
    let results = run(path, FunctionId { offset: 0, name: "any".to_owned() });
    assert_eq!(results.len(), 1, "{results:?}");
    let error = results[0].as_ref().expect_err("it does no work");
    assert_eq!(error.kind(), ErrorKind::AllWorkersDied, "{error}");
    error.to_string()
}

#[test]
fn a_program_without_fastmap_is_noticed_at_once() {
    let said = said_of(Path::new("/bin/true"));
    assert!(said.contains("exit(0) before it connected (is it a fastmap program?"), "{said}");
    // cat reads its standard input, which is a worker's way to get files, and does not wait there.
    let said = said_of(Path::new("/bin/cat"));
    assert!(said.contains("exit(1) before it connected"), "{said}");
    // More than a worker may print.
    let said = said_of(Path::new("/usr/bin/yes"));
    assert!(said.contains("it printed more than 256 KiB"), "{said}");
}

#[test]
fn what_the_loader_says_reaches_the_user() {
    // The headers are whole and a symbol's name is not: only the loader finds that out.
    let bytes = replaced("gnu_get_libc_version", "gnu_get_libc_nothing");
    let said = said_of(&file(&bytes).1);
    assert!(said.contains("exit(127)") && said.contains("symbol"), "{said}");
}

/// A C program without libraries of the system.
#[test]
fn a_static_program_is_started_too() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (source, path) = (folder.path().join("main.c"), folder.path().join("upload"));
    std::fs::write(
        &source,
        "#include <unistd.h>\nint main(void) { write(2, \"still here\\n\", 11); return 42; }\n",
    )
    .expect("room");
    let compiled =
        Command::new("cc").args(["-static", "-o"]).args([&path, &source]).status().expect("a compiler");
    assert!(compiled.success());
    let said = said_of(&path);
    assert!(said.contains("exit(42) before") && said.contains("still here"), "{said}");
}
