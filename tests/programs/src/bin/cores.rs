//! Two workers of a program tell how many cores each may use, once it has seen the other. Its `main` is made by
//! `fastmap_main!`, which notes the cores before the constructors of libraries.

use std::error::Error;
use std::fs::{File, read_dir};
use std::path::Path;

use fastmap_test_programs::{LIMIT, until};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

fn run() -> Result<(), Box<dyn Error>> {
    let look = |folder: String| {
        let allowed = sched_getaffinity(Pid::from_raw(0)).expect("the cores of this thread");
        let here = Path::new(&folder);
        File::create(here.join(std::process::id().to_string())).expect("a file can be made");
        until("both workers are there", LIMIT, || read_dir(here).is_ok_and(|files| files.count() == 2));
        (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap_or(false)).count()
    };
    let folder = std::env::args().nth(1).ok_or("the argument is a folder")?;
    for cores in fastmap::fastmap(look, vec![folder; 2]) {
        println!("{} cores", cores?);
    }
    Ok(())
}

fastmap::fastmap_main!(run);
