//! Decodes a folder of JPEG files by a C library that ends its process on a corrupt file, and survives.
//!
//! ```text
//! cargo run --release -p fastmap-examples --bin thumbnails
//! ```
//!
//! You'll see that of 24 files 23 were fine and one was lost, and which: libjpeg called `exit()` on it,
//! but that ended a worker and not the program. `thumbnails.png` shows them all on a contact sheet, the
//! lost one crossed out. Add `-- --plain-map` and the same file ends the whole program.

mod jpeg;
mod photos;
mod picture;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Parser;
use fastmap::{Options, fastmap_main};
use serde::{Deserialize, Serialize};

use crate::picture::Picture;

const WIDTH: u32 = 160;
const HEIGHT: u32 = 100;
const COLUMNS: u32 = 6;
const GAP: u32 = 8;

/// Make a contact sheet of JPEG files, one of which is corrupt.
#[derive(Parser)]
struct Args {
    /// A folder with JPEG files [default: 24 drawn for the purpose, in the temporary folder].
    folder: Option<PathBuf>,
    /// Where to write the contact sheet.
    #[arg(long, default_value = "thumbnails.png")]
    output: PathBuf,
    /// Decode with plain `map` instead, in this very process.
    #[arg(long)]
    plain_map: bool,
}

#[derive(Serialize, Deserialize)]
struct Photo {
    name: String,
    jpeg: Vec<u8>,
}

/// The function that is mapped. It may well end the process that it runs in.
fn thumbnail(photo: &Photo) -> Picture {
    jpeg::decode(&photo.jpeg, WIDTH, HEIGHT).cropped(WIDTH, HEIGHT)
}

fn read_photos(folder: &Path) -> std::io::Result<Vec<Photo>> {
    let mut photos = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        if extension == "jpg" || extension == "jpeg" {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            photos.push(Photo { name, jpeg: fs::read(&path)? });
        }
    }
    photos.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(photos)
}

fn contact_sheet(thumbnails: &[Picture]) -> Picture {
    let rows = (thumbnails.len() as u32).div_ceil(COLUMNS);
    let (wide, high) = (WIDTH + GAP, HEIGHT + GAP);
    let mut sheet = Picture::filled(COLUMNS * wide + GAP, rows * high + GAP, [24, 24, 28]);
    for (cell, thumbnail) in (0..).zip(thumbnails) {
        sheet.place(thumbnail, GAP + cell % COLUMNS * wide, GAP + cell / COLUMNS * high);
    }
    sheet
}

fn run() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let config = fastmap::init(Options::new())?;
    let folder = match args.folder {
        Some(folder) => folder,
        None => photos::write_all(&config)?,
    };
    let photos = read_photos(&folder)?;
    println!("{} JPEG files in {}", photos.len(), folder.display());

    if args.plain_map {
        let thumbnails: Vec<Picture> = photos.iter().map(thumbnail).collect();
        println!("plain map: {} fine, none of them corrupt", thumbnails.len());
        return contact_sheet(&thumbnails).write_png(&args.output);
    }

    let started = Instant::now();
    let (mut thumbnails, mut lost) = (Vec::new(), Vec::new());
    for result in config.fastmap_ref(thumbnail, &photos).label("thumbnails") {
        match result {
            Ok(thumbnail) => thumbnails.push(thumbnail),
            // An error with an index is about that one file, and the map goes on after it.
            Err(error) => {
                let Some(index) = error.index() else { return Err(error.into()) };
                thumbnails.push(Picture::lost(WIDTH, HEIGHT));
                lost.push((&photos[index].name, error));
            }
        }
    }
    let fine = thumbnails.len() - lost.len();
    println!("{fine} fine, {} lost, in {:.2} s", lost.len(), started.elapsed().as_secs_f64());
    for (name, error) in lost {
        println!("  {name}: {:?}: {error}", error.kind());
    }
    contact_sheet(&thumbnails).write_png(&args.output)?;
    println!("Contact sheet written to {}", args.output.display());
    Ok(())
}

fastmap_main!(run);
