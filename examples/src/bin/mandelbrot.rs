//! Draws the Mandelbrot set row by row and writes a PNG while the rows come in.
//!
//! ```text
//! cargo run --release -p fastmap-examples --bin mandelbrot
//! ```
//!
//! You'll find the picture in `mandelbrot.png`, and see the time that it took with `map` and with `fastmap`.
//! The view is sent once to each worker (`fastmap_with`), then only row numbers travel out and rows back.
//! They arrive in order, so each goes straight into the PNG. `--help` tells how to look elsewhere.

#![forbid(unsafe_code)]

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use fastmap::{Options, fastmap_main};
use serde::{Deserialize, Serialize};

/// Draw the Mandelbrot set with `map` and with `fastmap`.
#[derive(Parser)]
struct Args {
    /// Where to write the picture.
    #[arg(default_value = "mandelbrot.png")]
    output: PathBuf,
    #[command(flatten)]
    view: View,
    /// Don't draw it with plain `map` as well.
    #[arg(long)]
    skip_map: bool,
}

/// The part of the plane to draw, and how finely.
#[derive(clap::Args, Clone, Copy, Serialize, Deserialize)]
struct View {
    /// Width of the picture in pixels.
    #[arg(long, default_value_t = 1600, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    width: u32,
    /// Height of the picture in pixels.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    height: u32,
    /// Real part of the centre.
    #[arg(long, default_value_t = -0.775_6, allow_negative_numbers = true)]
    re: f64,
    /// Imaginary part of the centre.
    #[arg(long, default_value_t = 0.136_36, allow_negative_numbers = true)]
    im: f64,
    /// Magnification; at 1 the whole set is in view.
    #[arg(long, default_value_t = 3000.0)]
    zoom: f64,
    /// Steps after which a point counts as inside the set.
    #[arg(long, default_value_t = 3000)]
    steps: u32,
    /// Each pixel is the mean of this many by this many points.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=16))]
    samples: u32,
}

impl View {
    /// One row of the picture, three bytes a pixel: the function that is mapped.
    fn row(&self, y: u32) -> Vec<u8> {
        (0..self.width).flat_map(|x| self.pixel(x, y)).collect()
    }

    fn pixel(&self, x: u32, y: u32) -> [u8; 3] {
        let n = f64::from(self.samples);
        let step = 2.6 / (self.zoom * f64::from(self.height));
        let mut sum = [0.0; 3];
        for i in 0..self.samples * self.samples {
            let right = f64::from(x) + (f64::from(i % self.samples) + 0.5) / n - f64::from(self.width) / 2.0;
            let down = f64::from(y) + (f64::from(i / self.samples) + 0.5) / n - f64::from(self.height) / 2.0;
            let light = self.light(self.re + right * step, self.im - down * step);
            sum = [0, 1, 2].map(|channel| sum[channel] + light[channel]);
        }
        // The mean is taken of light, then encoded (gamma 2.2): edges stay smooth on a screen.
        sum.map(|light| ((light / (n * n)).powf(1.0 / 2.2) * 255.0).round() as u8)
    }

    /// The light that the point `c` sends, as linear red, green and blue.
    fn light(&self, c_re: f64, c_im: f64) -> [f64; 3] {
        // Squares z and adds c, along with the derivative of z by c, until z is far away.
        let (mut re, mut im, mut d_re, mut d_im) = (0.0_f64, 0.0_f64, 0.0_f64, 0.0_f64);
        for step in 0..self.steps {
            let size = re * re + im * im;
            if size > 1e6 {
                // The fraction of a step makes the bands flow into one another.
                let smooth = f64::from(step) + 1.0 - (size.ln() / 2.0).log2();
                // z over its derivative points straight out of the set: light it like a hillside.
                let (out_re, out_im) = (re * d_re + im * d_im, im * d_re - re * d_im);
                let slope = (out_re * -0.6 + out_im * 0.8) / out_re.hypot(out_im);
                return colour(smooth).map(|light| light * (0.65 + 0.35 * slope));
            }
            (d_re, d_im) = (2.0 * (re * d_re - im * d_im) + 1.0, 2.0 * (re * d_im + im * d_re));
            (re, im) = (re * re - im * im + c_re, 2.0 * re * im + c_im);
        }
        [0.0; 3]
    }
}

/// A ring of colours from night blue over white and amber back to night, once around as the steps grow.
fn colour(smooth: f64) -> [f64; 3] {
    const RING: [[f64; 3]; 5] =
        [[0.005, 0.01, 0.08], [0.01, 0.14, 0.55], [0.6, 0.95, 1.0], [1.0, 0.55, 0.06], [0.35, 0.02, 0.06]];
    let place = (smooth.max(1.0).ln() * 0.5 + 0.06).rem_euclid(1.0) * RING.len() as f64;
    let (from, to) = (RING[place as usize % RING.len()], RING[(place as usize + 1) % RING.len()]);
    let share = place.fract() * place.fract() * (3.0 - 2.0 * place.fract());
    [0, 1, 2].map(|channel| from[channel] + (to[channel] - from[channel]) * share)
}

/// Draws the picture from rows, which are taken one at a time.
fn png<E: Error + 'static>(
    view: &View,
    rows: impl Iterator<Item = Result<Vec<u8>, E>>,
) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, view.width, view.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::High);
    let mut writer = encoder.write_header()?;
    let mut stream = writer.stream_writer()?;
    for row in rows {
        stream.write_all(&row?)?;
    }
    stream.finish()?;
    drop(writer);
    Ok(file)
}

fn run() -> Result<(), Box<dyn Error>> {
    let Args { output, view, skip_map } = Args::parse();
    println!("{} x {} pixels", view.width, view.height);

    let started = Instant::now();
    let config = fastmap::init(Options::new())?;
    let picture = png(&view, config.fastmap_with(view, View::row, 0..view.height).label("mandelbrot"))?;
    println!("  fastmap  {:6.2} s", started.elapsed().as_secs_f64());
    std::fs::write(&output, &picture)?;

    if !skip_map {
        let started = Instant::now();
        let by_map = png(&view, (0..view.height).map(|y| Ok::<_, fastmap::Error>(view.row(y))))?;
        println!("  map      {:6.2} s", started.elapsed().as_secs_f64());
        assert!(by_map == picture, "fastmap gives what map gives, in the same order");
    }
    println!("Written to {} ({} kB)", output.display(), picture.len() / 1000);
    Ok(())
}

fastmap_main!(run);
