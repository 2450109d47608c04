//! A host whose workers are in no jail, and a function that lies. Its argument names the packet; it says so if it
//! is alive in the end.

use fastmap::backends::{Local, LocalOptions};
use fastmap_test_jails::{config, packets};

fn run() {
    let name = std::env::args().nth(1).unwrap_or_default();
    let packet = packets::Packet::ALL.into_iter().find(|packet| format!("{packet:?}") == name);
    let packet = packet.expect("the name of a packet");
    let config = config(Local::new(LocalOptions::new(1)).expect("a pool without workers"));
    let result = config.fastmap(packets::send, [packet]).next();
    println!("survived: {result:?}");
}
fastmap::fastmap_main!(run);
