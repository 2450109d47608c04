//! Decodes a JPEG by libjpeg with the error handler that it comes with, which ends the process.
//! Called by `main.rs` in the workers; all of the examples' unsafe code is here.

use std::ffi::c_ulong;
use std::mem;

use mozjpeg_sys::{
    J_COLOR_SPACE, jpeg_create_decompress, jpeg_decompress_struct, jpeg_destroy_decompress, jpeg_error_mgr,
    jpeg_finish_decompress, jpeg_mem_src, jpeg_read_header, jpeg_read_scanlines, jpeg_start_decompress,
    jpeg_std_error,
};

use crate::picture::Picture;

/// Decodes the file at the smallest of libjpeg's reduced sizes that still covers `width` x `height`.
///
/// On a file that it can't read, libjpeg prints why and calls `exit(1)`: nothing in Rust can catch that.
pub(crate) fn decode(jpeg: &[u8], width: u32, height: u32) -> Picture {
    // SAFETY: plain C structs; zero is a valid value of every field (null, `None`, the enums' first variant).
    let (mut errors, mut info): (jpeg_error_mgr, jpeg_decompress_struct) =
        unsafe { (mem::zeroed(), mem::zeroed()) };
    // SAFETY: the calls come in the order that libjpeg's manual asks for. `errors`, `info` and `jpeg` stay
    // where they are until `jpeg_destroy_decompress`, after which libjpeg holds none of them. Each row
    // pointer is into `pixels` with at least a row's bytes behind it: RGB output has three bytes a pixel.
    // No call unwinds: the default error handler leaves by `exit`.
    unsafe {
        info.common.err = jpeg_std_error(&mut errors);
        jpeg_create_decompress(&raw mut info);
        jpeg_mem_src(&mut info, jpeg.as_ptr(), jpeg.len() as c_ulong);
        jpeg_read_header(&mut info, 1);

        let covers = |by: &u32| info.image_width / by >= width && info.image_height / by >= height;
        info.scale_num = 1;
        info.scale_denom = [8, 4, 2].into_iter().find(covers).unwrap_or(1);
        info.out_color_space = J_COLOR_SPACE::JCS_RGB;
        jpeg_start_decompress(&mut info);

        let row_bytes = info.output_width as usize * 3;
        let mut pixels = vec![0; row_bytes * info.output_height as usize];
        for row in pixels.chunks_exact_mut(row_bytes) {
            let mut row = row.as_mut_ptr();
            jpeg_read_scanlines(&mut info, &raw mut row, 1);
        }
        let picture = Picture { width: info.output_width, height: info.output_height, pixels };
        jpeg_finish_decompress(&mut info);
        jpeg_destroy_decompress(&mut info);
        picture
    }
}
