//! Draws the JPEG files that `main.rs` decodes when it's given none: mountains at all hours, from a seed.

use std::error::Error;
use std::f64::consts::TAU;
use std::fs;
use std::path::PathBuf;

use fastmap::FastmapConfig;
use jpeg_encoder::{ColorType, Encoder};

const COUNT: u32 = 24;
const CORRUPT: u32 = 13;
const WIDTH: u16 = 960;
const HEIGHT: u16 = 600;

type Colour = [f64; 3];

/// The colours of the zenith, of the horizon and of the nearest hills.
const HOURS: [[Colour; 3]; 6] = [
    [[52.0, 74.0, 132.0], [250.0, 190.0, 160.0], [36.0, 34.0, 62.0]],
    [[64.0, 132.0, 206.0], [220.0, 238.0, 244.0], [22.0, 62.0, 58.0]],
    [[96.0, 160.0, 210.0], [246.0, 236.0, 200.0], [54.0, 74.0, 30.0]],
    [[70.0, 50.0, 110.0], [255.0, 150.0, 70.0], [50.0, 16.0, 40.0]],
    [[36.0, 26.0, 74.0], [214.0, 90.0, 110.0], [18.0, 10.0, 36.0]],
    [[6.0, 10.0, 34.0], [62.0, 98.0, 140.0], [4.0, 10.0, 20.0]],
];

/// Writes the files, one of them cut off in the middle of its header, and tells where.
pub(crate) fn write_all(config: &FastmapConfig) -> Result<PathBuf, Box<dyn Error>> {
    let folder = std::env::temp_dir().join("fastmap-photos");
    fs::create_dir_all(&folder)?;
    for (number, jpeg) in (0..).zip(config.fastmap(draw, 0..COUNT).label("draw photos")) {
        let mut jpeg = jpeg?;
        if number == CORRUPT {
            jpeg.truncate(200);
        }
        fs::write(folder.join(format!("photo-{number:02}.jpg")), jpeg)?;
    }
    Ok(folder)
}

/// The bytes of one JPEG file.
fn draw(number: u32) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(u64::from(number));
    let [zenith, horizon, near] = HOURS[number as usize % HOURS.len()];
    let sun = (0.15 + 0.7 * random.f64(), 0.15 + 0.35 * random.f64());
    let ranges: [[f64; 6]; 4] = std::array::from_fn(|_| std::array::from_fn(|_| random.f64()));

    let crests: Vec<[f64; 4]> =
        (0..WIDTH).map(|x| std::array::from_fn(|depth| crest(&ranges[depth], x, depth as f64))).collect();

    let mut pixels = Vec::with_capacity(usize::from(WIDTH) * usize::from(HEIGHT) * 3);
    for y in 0..HEIGHT {
        for (x, crests) in (0..WIDTH).zip(&crests) {
            let (across, down) = (f64::from(x) / f64::from(WIDTH), f64::from(y) / f64::from(HEIGHT));
            let hills = crests.iter().filter(|&&crest| down > crest).count();
            let colour = if hills > 0 {
                mix(horizon, near, hills as f64 / 4.0)
            } else {
                let away = ((across - sun.0) * 1.6).hypot(down - sun.1);
                let glow = if away < 0.05 { 0.95 } else { 0.5 * (-(away - 0.05) * 5.0).exp() };
                mix(mix(zenith, horizon, down * 1.5), [255.0, 246.0, 220.0], glow)
            };
            pixels.extend(colour.map(|channel| channel as u8));
        }
    }
    let mut jpeg = Vec::new();
    Encoder::new(&mut jpeg, 85)
        .encode(&pixels, WIDTH, HEIGHT, ColorType::Rgb)
        .expect("writing to memory does not fail, and the pixels fill the picture");
    jpeg
}

/// How far down the crest of a mountain range lies: waves, each finer and lower than the one before.
fn crest(phases: &[f64; 6], x: u16, depth: f64) -> f64 {
    let (mut height, mut fine) = (0.48 + 0.14 * depth, 1.0);
    for phase in phases {
        height += 0.09 / fine * (TAU * (phase + f64::from(x) / f64::from(WIDTH) * fine * 0.7)).sin();
        fine *= 1.9;
    }
    height
}

fn mix(from: Colour, to: Colour, share: f64) -> Colour {
    [0, 1, 2].map(|channel| from[channel] + (to[channel] - from[channel]) * share.min(1.0))
}
