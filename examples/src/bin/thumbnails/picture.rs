//! Pictures in memory, and the contact sheet that `main.rs` makes of them.

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Rows of pixels from the top, three bytes (red, green, blue) each.
#[derive(Serialize, Deserialize)]
pub(crate) struct Picture {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) pixels: Vec<u8>,
}

impl Picture {
    pub(crate) fn filled(width: u32, height: u32, colour: [u8; 3]) -> Self {
        Self { width, height, pixels: colour.repeat((width * height) as usize) }
    }

    /// The middle of the picture at exactly this size, each pixel the mean of those it stands for.
    pub(crate) fn cropped(&self, width: u32, height: u32) -> Self {
        let shrink =
            (f64::from(self.width) / f64::from(width)).min(f64::from(self.height) / f64::from(height));
        let left = (f64::from(self.width) - f64::from(width) * shrink) / 2.0;
        let top = (f64::from(self.height) - f64::from(height) * shrink) / 2.0;
        let span = |from: f64, at: u32, end: u32| {
            let first = ((from + f64::from(at) * shrink) as u32).min(end - 1);
            first..((from + f64::from(at + 1) * shrink) as u32).clamp(first + 1, end)
        };
        let mut small = Self::filled(width, height, [0; 3]);
        for y in 0..height {
            for x in 0..width {
                let (rows, columns) = (span(top, y, self.height), span(left, x, self.width));
                let area = (rows.len() * columns.len()) as u32;
                let mut sum = [0; 3];
                for (row, column) in rows.flat_map(|row| columns.clone().map(move |column| (row, column))) {
                    let pixel = self.pixel(column, row);
                    sum = [0, 1, 2].map(|channel| sum[channel] + u32::from(pixel[channel]));
                }
                small.set(x, y, sum.map(|sum| (sum / area) as u8));
            }
        }
        small
    }

    /// A cell for a picture that was lost: a red cross on grey.
    pub(crate) fn lost(width: u32, height: u32) -> Self {
        let mut cell = Self::filled(width, height, [58, 58, 64]);
        for y in 0..height {
            for x in 0..width {
                let slope = i64::from(x * height) - i64::from(y * width);
                let other = i64::from(x * height) - i64::from((height - y) * width);
                if slope.abs().min(other.abs()) < i64::from(width + height) {
                    cell.set(x, y, [208, 48, 48]);
                }
            }
        }
        cell
    }

    /// Copies `other` into this picture with its upper left corner at `(left, top)`.
    pub(crate) fn place(&mut self, other: &Self, left: u32, top: u32) {
        for y in 0..other.height {
            for x in 0..other.width {
                self.set(left + x, top + y, other.pixel(x, y));
            }
        }
    }

    pub(crate) fn write_png(&self, path: &Path) -> Result<(), Box<dyn Error>> {
        let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        Ok(writer.finish()?)
    }

    fn pixel(&self, x: u32, y: u32) -> [u8; 3] {
        let at = 3 * (y * self.width + x) as usize;
        [self.pixels[at], self.pixels[at + 1], self.pixels[at + 2]]
    }

    fn set(&mut self, x: u32, y: u32, colour: [u8; 3]) {
        let at = 3 * (y * self.width + x) as usize;
        self.pixels[at..at + 3].copy_from_slice(&colour);
    }
}
