//! Native libraries, opened by name as a program's plug-ins are; each with what it reads of the system.
#![allow(non_snake_case, reason = "the libraries' own names")]

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr::{null, null_mut};
use std::{env, fs};

use crate::library::{Library, functions, open, text, with, with_modules};
use crate::{Act, act, error};

pub(crate) const ACTS: &[Act] = &[
    act("libraries of the C library by name", "2 of 2", || {
        format!("{} of 2", ["libm.so.6", "libgcc_s.so.1"].iter().filter(|name| open(name).is_some()).count())
    }),
    act("SQLite sorts more than its memory", "of 40000", || with("libsqlite3.so.0", sqlite)),
    act("libmagic", "image/png", || with("libmagic.so.1", magic)),
    act("fontconfig", "fonts", || with("libfontconfig.so.1", fonts)),
    act("GLib's time zones", "3600", || with("libglib-2.0.so.0", glib)),
    act("terminals by name (ncurses)", "8 colours", || with("libtinfo.so.6", terminal)),
    act("OpenSSL's legacy provider", "legacy true", || with("libcrypto.so.3", openssl)),
    act("OpenMP of LLVM", "sum 4950", || {
        // Debian's is a link to the folder of its version.
        with("libomp.so.5", openmp)
    }),
    act("Python with its library", "1 36 locked temporary", || {
        python(
            "
import json, hashlib, sqlite3, tempfile, multiprocessing
with tempfile.TemporaryDirectory() as folder:
    with open(folder + '/x', 'w') as file:
        file.write('temporary')
    read = open(folder + '/x').read()
with multiprocessing.Lock():
    locked = 'locked'
told = ' '.join([str(json.loads('1')), str(len(hashlib.sha1(b'x').hexdigest()) - 4), locked, read])
",
        )
    }),
];

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

fn terminal(library: Library) -> String {
    functions!(library;
        setupterm: unsafe extern "C" fn(*const c_char, c_int, *mut c_int) -> c_int,
        tigetnum: unsafe extern "C" fn(*const c_char) -> c_int,
    );
    let mut code = 0;
    // SAFETY: as the library's manual says.
    unsafe {
        setupterm(c"xterm".as_ptr(), 1, &raw mut code);
        format!("code {code}, {} colours", if code == 1 { tigetnum(c"colors".as_ptr()) } else { 0 })
    }
}

fn openssl(library: Library) -> String {
    functions!(library;
        OSSL_PROVIDER_load: unsafe extern "C" fn(*mut c_void, *const c_char) -> *mut c_void,
        CONF_get1_default_config_file: unsafe extern "C" fn() -> *const c_char,
    );
    // SAFETY: as the library's manual says. Without its default one, which the first that is named replaces,
    // the library has no more ciphers for what comes after this in the same process.
    let (legacy, file) = unsafe {
        OSSL_PROVIDER_load(null_mut(), c"default".as_ptr());
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

/// What a program in Python has left in `told`, or its error: by way of a file of the function's own.
pub(crate) fn python(program: &str) -> String {
    with_modules("libpython3.11.so.1.0", |library| told(library, program))
}

fn told(library: Library, program: &str) -> String {
    functions!(library;
        Py_InitializeEx: unsafe extern "C" fn(c_int),
        PyRun_SimpleStringFlags: unsafe extern "C" fn(*const c_char, *mut c_void) -> c_int,
    );
    let file = env::temp_dir().join(format!("told-{}", std::process::id()));
    let inside = format!("    {}\n", program.trim().replace('\n', "\n    "));
    let whole = format!(
        "try:\n{inside}except BaseException as error:\n    told = repr(error)\n\
            open('{}', 'w').write(told)\n",
        file.display()
    );
    let whole = CString::new(whole).expect("no zero byte");
    // SAFETY: as the library's manual says.
    unsafe {
        Py_InitializeEx(0);
        PyRun_SimpleStringFlags(whole.as_ptr(), null_mut());
    }
    let told = fs::read_to_string(&file).unwrap_or_else(|why| error(&why));
    let _absent = fs::remove_file(&file);
    told
}
