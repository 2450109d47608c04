//! Libraries that draw text, and pictures.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{null, null_mut};

use resvg::{tiny_skia, usvg};

use super::checksum;
use crate::library::{Library, functions, text, with};
use crate::{Act, act};

pub(crate) const ACTS: &[Act] = &[
    act("resvg: a picture with text", "pixels", || drawn().unwrap_or_else(|why| why.to_string())),
    act("fontconfig: the font for a name", "DejaVuSans-Bold.ttf", || with("libfontconfig.so.1", matched)),
    act("cairo: text", "status 0, width 72", || with("libcairo.so.2", cairo)),
    act("pango: text", "0 unknown", || with("libpangocairo-1.0.so.0", pango)),
    act("ImageMagick: its coders", "PNG JPEG", || with("libMagickWand-6.Q16.so.6", coders)),
    act("ImageMagick: a picture there and back", "PNG 70x46", || with("libMagickWand-6.Q16.so.6", picture)),
    act("ImageMagick: text", "label", || with("libMagickWand-6.Q16.so.6", label)),
    act("ImageMagick: limits of its policy", "268435456", || with("libMagickWand-6.Q16.so.6", limits)),
];

fn drawn() -> Result<String, usvg::Error> {
    let picture = r#"<svg xmlns="http://www.w3.org/2000/svg" width="200" height="40">
        <text x="5" y="30" font-family="DejaVu Sans" font-size="24">Hello, é€</text></svg>"#;
    let mut options = usvg::Options::default();
    options.fontdb_mut().load_system_fonts();
    let tree = usvg::Tree::from_str(picture, &options)?;
    let mut pixels = tiny_skia::Pixmap::new(200, 40).expect("a size");
    resvg::render(&tree, tiny_skia::Transform::default(), &mut pixels.as_mut());
    let drawn = pixels.pixels().iter().filter(|pixel| pixel.alpha() > 0).count();
    Ok(format!("{drawn} pixels, {}", checksum(pixels.data().iter().copied())))
}

fn matched(library: Library) -> String {
    functions!(library;
        FcNameParse: unsafe extern "C" fn(*const c_char) -> *mut c_void,
        FcConfigSubstitute: unsafe extern "C" fn(*mut c_void, *mut c_void, c_int) -> c_int,
        FcDefaultSubstitute: unsafe extern "C" fn(*mut c_void),
        FcFontMatch: unsafe extern "C" fn(*mut c_void, *mut c_void, *mut c_int) -> *mut c_void,
        FcPatternGetString: unsafe extern "C" fn(
            *mut c_void, *const c_char, c_int, *mut *const c_char
        ) -> c_int,
    );
    // SAFETY: as the library's manual says.
    unsafe {
        let pattern = FcNameParse(c"DejaVu Sans:bold".as_ptr());
        FcConfigSubstitute(null_mut(), pattern, 0);
        FcDefaultSubstitute(pattern);
        let mut code = 0;
        let found = FcFontMatch(null_mut(), pattern, &raw mut code);
        if found.is_null() {
            return format!("none, code {code}");
        }
        let mut file = null();
        FcPatternGetString(found, c"file".as_ptr(), 0, &raw mut file);
        text(file)
    }
}

type Surface = *mut c_void;

/// A surface with room for a word.
fn surface(library: Library) -> (Surface, *mut c_void) {
    functions!(library;
        cairo_image_surface_create: unsafe extern "C" fn(c_int, c_int, c_int) -> Surface,
        cairo_create: unsafe extern "C" fn(Surface) -> *mut c_void,
    );
    // SAFETY: as the library's manual says; 0 is the format with four bytes a pixel.
    unsafe {
        let surface = cairo_image_surface_create(0, 200, 40);
        (surface, cairo_create(surface))
    }
}

/// Its pixels.
fn pixels(library: Library, surface: Surface) -> String {
    functions!(library;
        cairo_surface_flush: unsafe extern "C" fn(Surface),
        cairo_image_surface_get_data: unsafe extern "C" fn(Surface) -> *const u8,
    );
    // SAFETY: as large as it was made above.
    let data = unsafe {
        cairo_surface_flush(surface);
        std::slice::from_raw_parts(cairo_image_surface_get_data(surface), 200 * 40 * 4)
    };
    checksum(data.iter().copied())
}

fn cairo(library: Library) -> String {
    functions!(library;
        cairo_select_font_face: unsafe extern "C" fn(*mut c_void, *const c_char, c_int, c_int),
        cairo_set_font_size: unsafe extern "C" fn(*mut c_void, f64),
        cairo_text_extents: unsafe extern "C" fn(*mut c_void, *const c_char, *mut [f64; 6]),
        cairo_move_to: unsafe extern "C" fn(*mut c_void, f64, f64),
        cairo_show_text: unsafe extern "C" fn(*mut c_void, *const c_char),
        cairo_status: unsafe extern "C" fn(*mut c_void) -> c_int,
    );
    let (surface, cairo) = surface(library);
    let mut extents = [0.0; 6];
    // SAFETY: as the library's manual says.
    let status = unsafe {
        cairo_select_font_face(cairo, c"DejaVu Sans".as_ptr(), 0, 0);
        cairo_set_font_size(cairo, 30.0);
        cairo_text_extents(cairo, c"Hello".as_ptr(), &raw mut extents);
        cairo_move_to(cairo, 5.0, 30.0);
        cairo_show_text(cairo, c"Hello".as_ptr());
        cairo_status(cairo)
    };
    format!("status {status}, width {:.0}, {}", extents[2], pixels(library, surface))
}

fn pango(library: Library) -> String {
    functions!(library;
        pango_cairo_create_layout: unsafe extern "C" fn(*mut c_void) -> *mut c_void,
        pango_cairo_show_layout: unsafe extern "C" fn(*mut c_void, *mut c_void),
        pango_layout_set_text: unsafe extern "C" fn(*mut c_void, *const c_char, c_int),
        pango_font_description_from_string: unsafe extern "C" fn(*const c_char) -> *mut c_void,
        pango_layout_set_font_description: unsafe extern "C" fn(*mut c_void, *mut c_void),
        pango_layout_get_pixel_size: unsafe extern "C" fn(*mut c_void, *mut c_int, *mut c_int),
        pango_layout_get_unknown_glyphs_count: unsafe extern "C" fn(*mut c_void) -> c_int,
    );
    let drawing = crate::library::open("libcairo.so.2").expect("pango is linked with it");
    let (surface, cairo) = surface(drawing);
    let (mut width, mut height) = (0, 0);
    // SAFETY: as the library's manual says.
    let unknown = unsafe {
        let layout = pango_cairo_create_layout(cairo);
        let font = pango_font_description_from_string(c"DejaVu Sans 20".as_ptr());
        pango_layout_set_font_description(layout, font);
        pango_layout_set_text(layout, c"Hello, é€".as_ptr(), -1);
        pango_layout_get_pixel_size(layout, &raw mut width, &raw mut height);
        pango_cairo_show_layout(cairo, layout);
        pango_layout_get_unknown_glyphs_count(layout)
    };
    format!("{width} x {height}, {unknown} unknown, {}", pixels(drawing, surface))
}

type Wand = *mut c_void;

/// A new wand.
fn wand(library: Library) -> Wand {
    functions!(library;
        MagickWandGenesis: unsafe extern "C" fn(),
        NewMagickWand: unsafe extern "C" fn() -> Wand,
    );
    // SAFETY: as the library's manual says.
    unsafe {
        MagickWandGenesis();
        NewMagickWand()
    }
}

/// Why it could not.
fn why(library: Library, wand: Wand) -> String {
    functions!(library; MagickGetException: unsafe extern "C" fn(Wand, *mut c_int) -> *const c_char);
    let mut severity = 0;
    // SAFETY: as the library's manual says.
    text(unsafe { MagickGetException(wand, &raw mut severity) })
}

fn coders(library: Library) -> String {
    functions!(library;
        MagickQueryFormats: unsafe extern "C" fn(*const c_char, *mut usize) -> *const *const c_char,
    );
    wand(library);
    let known = ["PNG", "JPEG", "TIFF", "GIF", "WEBP", "PDF"].into_iter().filter(|format| {
        let mut count = 0;
        let pattern = CString::new(*format).expect("no zero byte");
        // SAFETY: as the library's manual says.
        unsafe { MagickQueryFormats(pattern.as_ptr(), &raw mut count) };
        count > 0
    });
    known.collect::<Vec<_>>().join(" ")
}

fn read(library: Library, wand: Wand, what: &CStr) -> Result<(), String> {
    functions!(library; MagickReadImage: unsafe extern "C" fn(Wand, *const c_char) -> c_int);
    // SAFETY: as the library's manual says.
    match unsafe { MagickReadImage(wand, what.as_ptr()) } {
        0 => Err(why(library, wand)),
        _ => Ok(()),
    }
}

/// Size and pixels.
fn signature(library: Library, wand: Wand) -> String {
    functions!(library;
        MagickGetImageWidth: unsafe extern "C" fn(Wand) -> usize,
        MagickGetImageHeight: unsafe extern "C" fn(Wand) -> usize,
        MagickGetImageSignature: unsafe extern "C" fn(Wand) -> *const c_char,
    );
    // SAFETY: as the library's manual says.
    unsafe {
        let (width, height) = (MagickGetImageWidth(wand), MagickGetImageHeight(wand));
        let pixels = text(MagickGetImageSignature(wand));
        format!("{width}x{height} {}", pixels.get(..16).unwrap_or(&pixels))
    }
}

fn picture(library: Library) -> String {
    functions!(library;
        MagickSetImageFormat: unsafe extern "C" fn(Wand, *const c_char) -> c_int,
        MagickGetImageBlob: unsafe extern "C" fn(Wand, *mut usize) -> *const u8,
        MagickReadImageBlob: unsafe extern "C" fn(Wand, *const u8, usize) -> c_int,
    );
    let there_and_back = |format: &str| {
        let (one, other) = (wand(library), wand(library));
        read(library, one, c"rose:")?;
        let name = CString::new(format).expect("no zero byte");
        let mut length = 0;
        // SAFETY: as the library's manual says.
        unsafe {
            MagickSetImageFormat(one, name.as_ptr());
            let blob = MagickGetImageBlob(one, &raw mut length);
            if blob.is_null() || MagickReadImageBlob(other, blob, length) == 0 {
                return Err(format!("{} {}", why(library, one), why(library, other)));
            }
        }
        Ok(format!("{format} {}", signature(library, other)))
    };
    ["PNG", "JPEG", "TIFF", "GIF"].map(|format| there_and_back(format).unwrap_or_else(|why| why)).join(", ")
}

fn label(library: Library) -> String {
    functions!(library;
        MagickSetFont: unsafe extern "C" fn(Wand, *const c_char) -> c_int,
        MagickSetPointsize: unsafe extern "C" fn(Wand, f64) -> c_int,
    );
    let wand = wand(library);
    // SAFETY: as the library's manual says.
    unsafe {
        MagickSetFont(wand, c"DejaVu-Sans".as_ptr());
        MagickSetPointsize(wand, 24.0);
    }
    read(library, wand, c"label:Hello")
        .map_or_else(|why| why, |()| format!("label {}", signature(library, wand)))
}

fn limits(library: Library) -> String {
    functions!(library; MagickGetResourceLimit: unsafe extern "C" fn(c_int) -> u64);
    wand(library);
    // Width, height, area, memory, map and disk.
    // SAFETY: as the library's manual says.
    let limits = [9, 10, 1, 5, 4, 2].map(|kind| unsafe { MagickGetResourceLimit(kind) });
    format!("{limits:?}")
}
