//! Data of the system that libraries read on their own, and what the program finds of itself.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::{env, ptr};

use crate::{ABSENT, Act, act, error};

pub(crate) const ACTS: &[Act] = &[
    act("time zones by name (the C library)", "07 CET", || {
        set("TZ", "Europe/Berlin");
        local_time(1_700_000_000 - 16 * 3600)
    }),
    act("the local hour", "", || {
        // As the worker of a host that has not set it.
        unset("TZ");
        local_time(0).split(' ').next().unwrap_or_default().to_owned()
    }),
    act("time zones by name (chrono)", "+09:00", || {
        set("TZ", "Asia/Tokyo");
        let time =
            chrono::TimeZone::timestamp_opt(&chrono::Local, 1_700_000_000, 0).single().expect("a time");
        time.to_string()
    }),
    act("a locale", "C.UTF-8, 2 letters", || {
        unsafe extern "C" {
            fn mbstowcs(wide: *mut libc::wchar_t, text: *const libc::c_char, most: usize) -> usize;
        }
        // SAFETY: no other thread looks at the locale; strings that end with a zero byte.
        unsafe {
            let set = libc::setlocale(libc::LC_ALL, c"C.UTF-8".as_ptr());
            let name = if set.is_null() { "refused".into() } else { CStr::from_ptr(set).to_string_lossy() };
            let letters = mbstowcs(ptr::null_mut(), c"é€".as_ptr(), 0);
            format!("{name}, {letters} letters")
        }
    }),
    act("converters (iconv)", "4 of 4", || {
        let names = [c"ISO-8859-1", c"UTF-16", c"CP1252", c"SHIFT_JIS"];
        // SAFETY: names that end with a zero byte.
        let known = |name: &&&CStr| unsafe {
            let opened = libc::iconv_open(c"UTF-8".as_ptr(), name.as_ptr());
            opened as isize != -1
        };
        format!("{} of 4", names.iter().filter(known).count())
    }),
    act("services by name (the C library)", "443", || {
        if !Path::new("/etc/services").exists() {
            return ABSENT.to_owned();
        }
        // SAFETY: strings that end with a zero byte, and what the C library has found.
        unsafe {
            let found = libc::getservbyname(c"https".as_ptr(), c"tcp".as_ptr());
            let port = found.as_ref().map(|found| u16::from_be(found.s_port as u16));
            port.map_or_else(|| "none".to_owned(), |port| port.to_string())
        }
    }),
    act("harmless devices", "[0, 0, 0] 3 3 written error 28", || {
        let read = |path: &str| {
            let mut bytes = [1u8; 3];
            File::open(path).and_then(|mut file| file.read_exact(&mut bytes)).map(|()| bytes)
        };
        let write = |path: &str| {
            let mut file = File::options().write(true).open(path)?;
            file.write_all(b"x")
        };
        let zero = read("/dev/zero").map_or_else(|why| error(&why), |bytes| format!("{bytes:?}"));
        let random = |path| read(path).map_or_else(|why| error(&why), |bytes| bytes.len().to_string());
        let null = write("/dev/null").map_or_else(|why| error(&why), |()| "written".to_owned());
        let full = write("/dev/full").map_or_else(|why| error(&why), |()| "written".to_owned());
        format!("{zero} {} {} {null} {full}", random("/dev/random"), random("/dev/urandom"))
    }),
    act("certificates of the authorities", "", || {
        match fs::read_to_string("/etc/ssl/certs/ca-certificates.crt") {
            Ok(text) => format!("{} certificates", text.matches("BEGIN CERTIFICATE").count()),
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => ABSENT.to_owned(),
            Err(why) => error(&why),
        }
    }),
    act("private keys, users, hosts are not there", "none", || {
        let paths = [
            "/etc/ssl/private",
            "/etc/passwd",
            "/etc/hosts",
            "/etc/machine-id",
            "/root",
            "/home",
            "/usr/bin",
        ];
        let there = paths.iter().filter(|path| File::open(path).is_ok()).collect::<Vec<_>>();
        if there.is_empty() { "none".to_owned() } else { format!("{there:?}") }
    }),
    act("the list can't be written to", "refused refused", || {
        let write = |path: &str| match File::options().write(true).create(true).truncate(false).open(path) {
            Ok(_) => "written",
            Err(_) => "refused",
        };
        format!("{} {}", write("/usr/share/zoneinfo/fastmap"), write("/usr/share/zoneinfo/UTC"))
    }),
    act("the program finds itself", "readable", || {
        let path = env::current_exe();
        match path.and_then(File::open).and_then(|mut file| file.read_exact(&mut [0; 64])) {
            Ok(()) => "readable".to_owned(),
            Err(why) => error(&why),
        }
    }),
    act("a backtrace has names and lines", "named true, line true", a_function_with_a_name),
];

#[inline(never)]
fn a_function_with_a_name() -> String {
    let trace = std::backtrace::Backtrace::force_capture().to_string();
    let has = |text: &str| trace.contains(text);
    format!("named {}, line {}", has("a_function_with_a_name"), has("data.rs:"))
}

fn set(name: &str, value: &str) {
    // SAFETY: no other thread looks at the environment.
    unsafe { env::set_var(name, value) };
}

fn unset(name: &str) {
    // SAFETY: no other thread looks at the environment.
    unsafe { env::remove_var(name) };
}

/// Hour and zone.
fn local_time(time: i64) -> String {
    unsafe extern "C" {
        fn tzset();
    }
    // SAFETY: no other thread looks at the environment; the C library writes the structure.
    unsafe {
        tzset();
        let mut found = std::mem::zeroed::<libc::tm>();
        libc::localtime_r(&raw const time, &raw mut found);
        let zone = if found.tm_zone.is_null() { c"" } else { CStr::from_ptr(found.tm_zone) };
        format!("{:02} {}", found.tm_hour, zone.to_string_lossy())
    }
}
