//! Libraries that read data of the system on their own: zones, languages, maps, names, certificates, modules.

use std::env;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{null, null_mut};

use crate::library::{Library, functions, text, with};
use crate::native::python;
use crate::{Act, act};

pub(crate) const ACTS: &[Act] = &[
    act("time zones (jiff)", "2023-11-15T07:13:20+09:00[Asia/Tokyo] CST", || {
        zones().unwrap_or_else(|why| why.to_string())
    }),
    act("the local zone (jiff)", "", || {
        // SAFETY: no other thread looks at the environment.
        unsafe { env::remove_var("TZ") };
        jiff::tz::TimeZone::system().to_offset(jiff::Timestamp::UNIX_EPOCH).to_string()
    }),
    act("letters and their widths (the C library)", "UTF-8 É 2", letters),
    act("orders of letters (ICU)", "-1 1", || with("libicui18n.so.72", collation)),
    act("XML (libxml2)", "note, 1 child", || with("libxml2.so.2", xml)),
    act("map projections (PROJ)", "391", || with("libproj.so.25", projection)),
    act("map projections (PROJ): another datum", "", || with("libproj.so.25", datum)),
    act("certificates of the authorities (OpenSSL)", "code 1", || with("libssl.so.3", authorities)),
    act("numbers of a generator (OpenSSL)", "code 1, other", || with("libcrypto.so.3", random)),
    act("types of files (libmagic)", "application/pdf", || with("libmagic.so.1", types)),
    act("types of files by name (Python)", "image/webp", || {
        python(
            "
import mimetypes
told = mimetypes.guess_type('a.webp')[0] + ' ' + str(mimetypes.guess_type('a.7z')[0])
",
        )
    }),
    act("Python: zones, languages, certificates", "JST", || {
        python(
            "
import zoneinfo, datetime, locale, ssl
zone = zoneinfo.ZoneInfo('Asia/Tokyo')
told = ' '.join([datetime.datetime(2023, 11, 15, tzinfo=zone).tzname(),
    locale.setlocale(locale.LC_ALL, 'C.UTF-8'),
    str(len(ssl.create_default_context().get_ca_certs())), str(len(zoneinfo.available_timezones()) > 400)])
",
        )
    }),
    act("Python: threads, tasks, a callback from C", "[1, 2, 3] 4950 done", || {
        python(
            "
import ctypes, threading, asyncio, concurrent.futures
kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
numbers = (ctypes.c_int * 3)(3, 1, 2)
ctypes.CDLL('libc.so.6').qsort(numbers, 3, 4, kind(lambda a, b: a[0] - b[0]))
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    total = sum(pool.map(lambda n: n, range(100)))
async def task():
    await asyncio.gather(*(asyncio.sleep(0.001) for _ in range(10)))
    return await asyncio.to_thread(lambda: 'done')
told = ' '.join([str(list(numbers)), str(total), asyncio.run(task())])
",
        )
    }),
    act("Python: a database, archives, numbers", "3 b'x' 0.30", || {
        python(
            "
import sqlite3, lzma, bz2, zlib, decimal, tempfile, os
with tempfile.TemporaryDirectory() as folder:
    base = sqlite3.connect(os.path.join(folder, 'base'))
    base.execute('pragma journal_mode=wal')
    base.execute('create table n (i)')
    base.executemany('insert into n values (?)', [(1,), (2,), (3,)])
    base.commit()
    rows = base.execute('select count(*) from n').fetchone()[0]
    base.close()
same = lzma.decompress(lzma.compress(bz2.decompress(bz2.compress(zlib.decompress(zlib.compress(b'x'))))))
told = ' '.join([str(rows), str(same), str(decimal.Decimal('0.1') + decimal.Decimal('0.20'))])
",
        )
    }),
    act("SQLite sorts 200 MB", "code 0 (none), 800000 rows", || with("libsqlite3.so.0", sort)),
];

fn zones() -> Result<String, jiff::Error> {
    let time = jiff::Timestamp::from_second(1_700_000_000)?;
    let zone = jiff::tz::TimeZone::get("America/Chicago")?;
    let summary = zone.to_offset_info(time).abbreviation().to_owned();
    Ok(format!("{} {summary}", time.in_tz("Asia/Tokyo")?))
}

fn letters() -> String {
    unsafe extern "C" {
        fn towupper(letter: u32) -> u32;
        fn wcwidth(letter: u32) -> c_int;
        fn iswalpha(letter: u32) -> c_int;
    }
    // SAFETY: no other thread looks at the locale; letters are numbers.
    unsafe {
        libc::setlocale(libc::LC_ALL, c"C.UTF-8".as_ptr());
        let set = text(libc::nl_langinfo(libc::CODESET));
        let upper = char::from_u32(towupper('é' as u32)).unwrap_or('?');
        let order = libc::strcoll(c"a".as_ptr(), c"b".as_ptr()).signum();
        format!("{set} {upper} {} {} {order}", wcwidth('漢' as u32), iswalpha('ß' as u32) != 0)
    }
}

fn collation(library: Library) -> String {
    functions!(library;
        ucol_open_72: unsafe extern "C" fn(*const c_char, *mut c_int) -> *mut c_void,
        ucol_strcoll_72: unsafe extern "C" fn(*mut c_void, *const u16, i32, *const u16, i32) -> c_int,
    );
    let compare = |language: &CStr| {
        let (one, other) = ("ö".encode_utf16().collect::<Vec<_>>(), "z".encode_utf16().collect::<Vec<_>>());
        let mut code = 0;
        // SAFETY: as the library's manual says.
        unsafe {
            let order = ucol_open_72(language.as_ptr(), &raw mut code);
            ucol_strcoll_72(order, one.as_ptr(), 1, other.as_ptr(), 1)
        }
    };
    format!("{} {}", compare(c"de"), compare(c"sv"))
}

fn xml(library: Library) -> String {
    functions!(library;
        xmlReadMemory: unsafe extern "C" fn(
            *const c_char, c_int, *const c_char, *const c_char, c_int
        ) -> *mut c_void,
        xmlDocGetRootElement: unsafe extern "C" fn(*mut c_void) -> *mut c_void,
        xmlChildElementCount: unsafe extern "C" fn(*mut c_void) -> usize,
        xmlGetNodePath: unsafe extern "C" fn(*mut c_void) -> *const c_char,
        xmlNodeGetContent: unsafe extern "C" fn(*mut c_void) -> *const c_char,
    );
    // Entities, definitions from elsewhere, no messages, no network.
    const OPTIONS: c_int = 2 | 4 | 32 | 64 | 2048;
    let document = c"<?xml version='1.0' encoding='ISO-8859-15'?>
<!DOCTYPE note PUBLIC '-//fastmap//note' 'note.dtd' [<!ENTITY who 'all'>]><note><to>&who;</to></note>";
    // SAFETY: as the library's manual says.
    unsafe {
        let length = document.count_bytes() as c_int;
        let read = xmlReadMemory(document.as_ptr(), length, null(), null(), OPTIONS);
        if read.is_null() {
            return "not read".to_owned();
        }
        let root = xmlDocGetRootElement(read);
        let (path, said) = (text(xmlGetNodePath(root)), text(xmlNodeGetContent(root)));
        format!("{}, {} child: {said}", path.trim_start_matches('/'), xmlChildElementCount(root))
    }
}

/// A place on the way from one system of coordinates to another.
fn transformed(library: Library, from: &CStr, to: &CStr, place: [f64; 2]) -> String {
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Place([f64; 4]);
    functions!(library;
        proj_create_crs_to_crs: unsafe extern "C" fn(
            *mut c_void, *const c_char, *const c_char, *mut c_void
        ) -> *mut c_void,
        proj_trans: unsafe extern "C" fn(*mut c_void, c_int, Place) -> Place,
        proj_destroy: unsafe extern "C" fn(*mut c_void) -> *mut c_void,
    );
    // SAFETY: as the library's manual says; 1 is forwards.
    unsafe {
        let way = proj_create_crs_to_crs(null_mut(), from.as_ptr(), to.as_ptr(), null_mut());
        if way.is_null() {
            return "no way".to_owned();
        }
        let Place(found) = proj_trans(way, 1, Place([place[0], place[1], 0.0, 0.0]));
        proj_destroy(way);
        format!("{:.6} {:.6}", found[0], found[1])
    }
}

fn projection(library: Library) -> String {
    transformed(library, c"EPSG:4326", c"EPSG:25833", [52.5, 13.4])
}

fn datum(library: Library) -> String {
    transformed(library, c"EPSG:4314", c"EPSG:4258", [52.5, 13.4])
}

fn authorities(library: Library) -> String {
    functions!(library;
        X509_STORE_new: unsafe extern "C" fn() -> *mut c_void,
        X509_STORE_set_default_paths: unsafe extern "C" fn(*mut c_void) -> c_int,
        X509_STORE_get0_objects: unsafe extern "C" fn(*mut c_void) -> *mut c_void,
        OPENSSL_sk_num: unsafe extern "C" fn(*mut c_void) -> c_int,
    );
    // SAFETY: as the library's manual says.
    unsafe {
        let store = X509_STORE_new();
        let code = X509_STORE_set_default_paths(store);
        format!("code {code}, {} certificates", OPENSSL_sk_num(X509_STORE_get0_objects(store)))
    }
}

fn random(library: Library) -> String {
    functions!(library; RAND_bytes: unsafe extern "C" fn(*mut u8, c_int) -> c_int);
    let mut numbers = [[0u8; 32]; 2];
    // SAFETY: as many bytes as there are.
    let code = unsafe { RAND_bytes(numbers.as_mut_ptr().cast(), 64) };
    format!("code {code}, {}", if numbers[0] == numbers[1] { "equal" } else { "other each time" })
}

fn types(library: Library) -> String {
    functions!(library;
        magic_open: unsafe extern "C" fn(c_int) -> *mut c_void,
        magic_load: unsafe extern "C" fn(*mut c_void, *const c_char) -> c_int,
        magic_buffer: unsafe extern "C" fn(*mut c_void, *const u8, usize) -> *const c_char,
        magic_close: unsafe extern "C" fn(*mut c_void),
    );
    let files: [&[u8]; 4] =
        [b"%PDF-1.4\n", b"GIF89a\x01\0\x01\0\0\0\0", b"#!/bin/sh\nexit\n", b"\x1f\x8b\x08\0\0\0\0\0\0\x03"];
    // SAFETY: as the library's manual says; 0x10 asks for types.
    unsafe {
        let cookie = magic_open(0x10);
        magic_load(cookie, null());
        let told = files.map(|file| text(magic_buffer(cookie, file.as_ptr(), file.len()))).join(" ");
        magic_close(cookie);
        told
    }
}

fn sort(library: Library) -> String {
    type Row = unsafe extern "C" fn(*mut (u64, bool, String), c_int, *mut Name, *mut Name) -> c_int;
    type Name = *mut c_char;
    functions!(library;
        sqlite3_open: unsafe extern "C" fn(*const c_char, *mut *mut c_void) -> c_int,
        sqlite3_close: unsafe extern "C" fn(*mut c_void) -> c_int,
        sqlite3_exec: unsafe extern "C" fn(
            *mut c_void, *const c_char, Option<Row>, *mut (u64, bool, String), *mut Name
        ) -> c_int,
    );
    unsafe extern "C" fn row(
        seen: *mut (u64, bool, String),
        _: c_int,
        values: *mut Name,
        _: *mut Name,
    ) -> c_int {
        // SAFETY: what is given below, and a row of one text.
        let (seen, value) = unsafe { (&mut *seen, text(*values)) };
        seen.0 += 1;
        seen.1 &= seen.2 <= value;
        seen.2 = value;
        0
    }
    let sort = c"PRAGMA temp_store=FILE; PRAGMA cache_size=-2000;
        WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 799999)
        SELECT printf('%0250d', (i * 7919) % 800011) AS text FROM n ORDER BY text;";
    let (mut base, mut why) = (null_mut(), null_mut());
    let mut seen = (0, true, String::new());
    // SAFETY: as the library's manual says.
    unsafe {
        sqlite3_open(c":memory:".as_ptr(), &raw mut base);
        let code = sqlite3_exec(base, sort.as_ptr(), Some(row), &raw mut seen, &raw mut why);
        let said = format!("code {code} ({}), {} rows, in order: {}", text(why), seen.0, seen.1);
        sqlite3_close(base);
        said
    }
}
