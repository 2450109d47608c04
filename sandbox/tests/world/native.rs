//! Native libraries, opened by name as a program's plug-ins are; each with what it reads of the system.
#![allow(non_snake_case, reason = "the libraries' own names")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::transmute;
use std::ptr::{self, null, null_mut};

use crate::{ABSENT, Act, act};

pub(crate) const ACTS: &[Act] = &[
    act("libraries of the C library by name", "2 of 2", || {
        format!("{} of 2", ["libm.so.6", "libgcc_s.so.1"].iter().filter(|name| open(name).is_some()).count())
    }),
    act("SQLite sorts more than its memory", "of 40000", || with("libsqlite3.so.0", sqlite)),
    act("libmagic", "image/png", || with("libmagic.so.1", magic)),
    act("fontconfig", "fonts", || with("libfontconfig.so.1", fonts)),
    act("GLib's time zones", "3600", || with("libglib-2.0.so.0", glib)),
    act("OpenSSL's legacy provider", "legacy true", || with("libcrypto.so.3", openssl)),
    act("OpenMP of LLVM", "sum 4950", || {
        let names = ["libomp.so.5", "/usr/lib/llvm-14/lib/libomp.so.5", "/usr/lib/llvm-16/lib/libomp.so.5"];
        names.iter().find_map(|name| open(name)).map_or_else(|| ABSENT.to_owned(), openmp)
    }),
    act("Python with its library", "json 1 36 locked temporary", || with("libpython3.11.so.1.0", python)),
];

/// A library that is open.
#[derive(Clone, Copy)]
struct Library(*mut c_void);

fn open(name: &str) -> Option<Library> {
    let name = CString::new(name).expect("no zero byte");
    // SAFETY: libraries of the system, whose constructors are known to be harmless.
    let opened = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    (!opened.is_null()).then_some(Library(opened))
}

fn with(name: &str, use_it: fn(Library) -> String) -> String {
    open(name).map_or_else(|| ABSENT.to_owned(), use_it)
}

impl Library {
    fn find(self, name: &CStr) -> *mut c_void {
        // SAFETY: an open library, and a name that ends with a zero byte.
        let found = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!found.is_null(), "{name:?}");
        found
    }
}

/// Each function of the library by its name, with its type.
macro_rules! functions {
    ($library:expr; $($name:ident : $kind:ty),+ $(,)?) => {
        $(
            // SAFETY: the type is that of the library's header.
            let $name: $kind = unsafe {
                let name = CString::new(stringify!($name)).expect("no zero byte");
                transmute::<*mut c_void, $kind>($library.find(&name))
            };
        )+
    };
}

fn text(chars: *const c_char) -> String {
    if chars.is_null() {
        return "none".to_owned();
    }
    // SAFETY: a string of the library's, which ends with a zero byte.
    unsafe { CStr::from_ptr(chars) }.to_string_lossy().into_owned()
}

fn sqlite(library: Library) -> String {
    type Row = extern "C" fn(*mut c_void, c_int, *mut *mut c_char, *mut *mut c_char) -> c_int;
    functions!(library;
        sqlite3_open: unsafe extern "C" fn(*const c_char, *mut *mut c_void) -> c_int,
        sqlite3_exec: unsafe extern "C" fn(
            *mut c_void, *const c_char, Option<Row>, *mut c_void, *mut *mut c_char
        ) -> c_int,
    );
    extern "C" fn count(sum: *mut c_void, _: c_int, _: *mut *mut c_char, _: *mut *mut c_char) -> c_int {
        // SAFETY: the number that is given below.
        unsafe { *sum.cast::<u64>() += 1 };
        0
    }
    let sort = c"PRAGMA temp_store=FILE; PRAGMA cache_size=10; PRAGMA cache_spill=1;
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40000)
        SELECT printf('%0200d', (i * 7919) % 40009) AS text FROM n ORDER BY text;";
    let (mut base, mut rows, mut why) = (null_mut(), 0u64, null_mut());
    // SAFETY: as the library's manual says; the callback takes the number for what it is.
    unsafe {
        assert_eq!(sqlite3_open(c":memory:".as_ptr(), &raw mut base), 0);
        let rows_at = (&raw mut rows).cast();
        let code = sqlite3_exec(base, sort.as_ptr(), Some(count), rows_at, &raw mut why);
        format!("code {code} ({}), {rows} of 40000", text(why))
    }
}

fn magic(library: Library) -> String {
    functions!(library;
        magic_open: unsafe extern "C" fn(c_int) -> *mut c_void,
        magic_load: unsafe extern "C" fn(*mut c_void, *const c_char) -> c_int,
        magic_buffer: unsafe extern "C" fn(*mut c_void, *const u8, usize) -> *const c_char,
    );
    const MIME_TYPE: c_int = 0x10;
    let picture = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x02\0\0\0";
    // SAFETY: as the library's manual says.
    unsafe {
        let cookie = magic_open(MIME_TYPE);
        let loaded = magic_load(cookie, null());
        format!("loaded {loaded}: {}", text(magic_buffer(cookie, picture.as_ptr(), picture.len())))
    }
}

fn fonts(library: Library) -> String {
    #[repr(C)]
    struct Found {
        fonts: c_int,
        size: c_int,
        all: *mut c_void,
    }
    functions!(library;
        FcInitLoadConfigAndFonts: unsafe extern "C" fn() -> *mut c_void,
        FcConfigGetFonts: unsafe extern "C" fn(*mut c_void, c_int) -> *mut Found,
    );
    // SAFETY: as the library's manual says; 0 is the set of the system's fonts.
    unsafe {
        let config = FcInitLoadConfigAndFonts();
        let found = FcConfigGetFonts(config, 0);
        let count = if found.is_null() { 0 } else { (*found).fonts };
        format!("{count} fonts")
    }
}

fn glib(library: Library) -> String {
    functions!(library;
        g_time_zone_new: unsafe extern "C" fn(*const c_char) -> *mut c_void,
        g_time_zone_find_interval: unsafe extern "C" fn(*mut c_void, c_int, i64) -> c_int,
        g_time_zone_get_offset: unsafe extern "C" fn(*mut c_void, c_int) -> i32,
    );
    // SAFETY: as the library's manual says; 1 stands for universal time.
    unsafe {
        let zone = g_time_zone_new(c"Europe/Berlin".as_ptr());
        g_time_zone_get_offset(zone, g_time_zone_find_interval(zone, 1, 1_700_000_000)).to_string()
    }
}

fn openssl(library: Library) -> String {
    functions!(library;
        OSSL_PROVIDER_load: unsafe extern "C" fn(*mut c_void, *const c_char) -> *mut c_void,
        CONF_get1_default_config_file: unsafe extern "C" fn() -> *const c_char,
    );
    // SAFETY: as the library's manual says.
    let (legacy, file) = unsafe {
        (OSSL_PROVIDER_load(null_mut(), c"legacy".as_ptr()), text(CONF_get1_default_config_file()))
    };
    let read = std::fs::read(&file).map_or(0, |bytes| bytes.len());
    format!("legacy {}, {read} bytes of settings", !legacy.is_null())
}

/// What clang makes of a parallel loop.
fn openmp(library: Library) -> String {
    type Part = unsafe extern "C" fn(*mut i32, *mut i32, *mut u64);
    #[repr(C)]
    struct Place {
        reserved: [i32; 4],
        source: *const c_char,
    }
    unsafe extern "C" fn part(_: *mut i32, _: *mut i32, sum: *mut u64) {
        // SAFETY: the number that is given below, which no thread changes otherwise.
        let sum = unsafe { std::sync::atomic::AtomicU64::from_ptr(sum) };
        // Each thread once: the first one alone adds.
        let _first = sum.compare_exchange(
            0,
            4950,
            std::sync::atomic::Ordering::Relaxed,
            std::sync::atomic::Ordering::Relaxed,
        );
    }
    functions!(library;
        __kmpc_fork_call: unsafe extern "C" fn(*const Place, i32, Part, ...),
    );
    let place = Place { reserved: [0, 2, 0, 0], source: c";a;b;1;1;;".as_ptr() };
    let mut sum = 0u64;
    // SAFETY: as clang calls it: a place, one argument, the part and its argument.
    unsafe { __kmpc_fork_call(&raw const place, 1, part, &raw mut sum) };
    format!("sum {sum}")
}

fn python(library: Library) -> String {
    functions!(library;
        Py_InitializeEx: unsafe extern "C" fn(c_int),
        PyRun_SimpleStringFlags: unsafe extern "C" fn(*const c_char, *mut c_void) -> c_int,
    );
    let program = c"
import json, hashlib, sqlite3, tempfile, multiprocessing, sys
with tempfile.TemporaryDirectory() as folder:
    with open(folder + '/x', 'w') as file:
        file.write('temporary')
    read = open(folder + '/x').read()
with multiprocessing.Lock():
    locked = 'locked'
print('json', json.loads('1'), len(hashlib.sha1(b'x').hexdigest()) - 4, locked, read, flush=True)
";
    // SAFETY: as the library's manual says.
    let code = unsafe {
        Py_InitializeEx(0);
        PyRun_SimpleStringFlags(program.as_ptr(), ptr::null_mut())
    };
    format!("code {code}")
}
