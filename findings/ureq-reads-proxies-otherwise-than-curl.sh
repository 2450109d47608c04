#!/usr/bin/env bash
# ureq 3.5.2: Proxy::try_from_env takes ALL_PROXY before HTTPS_PROXY, where curl (curl(1), "Environment") takes the special variable
# first; it takes http_proxy for https:// addresses as well, and an entry of NO_PROXY behind a comma and a blank excepts no host.
# A program that moves from libcurl's rules to ureq's sends its requests to another proxy without a word.
#
# Seen:  HTTPS_PROXY=http://p.example:1 ALL_PROXY=http://q.example:2   the proxy is q.example (curl 7.88.1: p.example)
#        http_proxy=http://q.example:2                                 the proxy is q.example (curl: none, for https://)
#        NO_PROXY="a.example, b.example"                               a.example is excepted, b.example is not (curl: both)
# Takes Rust (cargo).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat >Cargo.toml <<'TOML'
[package]
name = "proxies"
version = "0.0.0"
edition = "2021"
[dependencies]
ureq = { version = "=3.5.2", default-features = false }
TOML
cat >src/main.rs <<'RUST'
use ureq::{http::Uri, Proxy};

fn main() {
    let Some(proxy) = Proxy::try_from_env() else { return println!("none") };
    let excepted = |host: &str| proxy.is_no_proxy(&format!("https://{host}/").parse::<Uri>().unwrap());
    println!("{} {} {}", proxy.host(), excepted("a.example"), excepted("b.example"));
}
RUST
cargo build --quiet
look() { env -u HTTP_PROXY -u HTTPS_PROXY -u ALL_PROXY -u NO_PROXY -u http_proxy -u https_proxy -u all_proxy -u no_proxy "$@" target/debug/proxies; }
both=$(look HTTPS_PROXY=http://p.example:1 ALL_PROXY=http://q.example:2)
plain=$(look http_proxy=http://q.example:2)
list=$(look HTTPS_PROXY=http://p.example:1 NO_PROXY="a.example, b.example")
printf '%s\n' "both: $both" "http_proxy: $plain" "NO_PROXY: $list"
[ "$both" = "q.example false false" ] && [ "$plain" = "q.example false false" ] && [ "$list" = "p.example true false" ]
