//! The machine's files that a mapped function can read: one list for both sides. `landlock` lets a confined
//! local worker read them, and `jail` binds them read-only for an untrusted program, each only if this
//! machine has it. No other file of the machine is accessible on either side. `temporary` has the writable
//! files.
//!
//! An entry is listed because a common library reads it by default, and would silently return other results
//! without it. All of them belong to packages of the system, are readable for every user, and reveal nothing
//! about this machine but its packages. Keys (`/etc/ssl/private`), users, hosts, and all other configuration
//! are not listed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Folders of libraries, in the loader's own order. Users can write to none of them.
pub(crate) const LIBRARIES: [&str; 6] = if cfg!(target_arch = "aarch64") {
    ["/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"]
} else {
    ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"]
};

/// Devices that access no hardware, for reading and writing.
pub(crate) const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// Data files of libraries.
const DATA: &[&str] = &[
    // The loader's index of the library folders, and the links by which Debian's libblas and liblapack are
    // found (there is nothing but links in that folder).
    "/etc/ld.so.cache",
    "/etc/alternatives",
    // Time zones: the C library, chrono, jiff, GLib. The run sets the local one.
    "/usr/share/zoneinfo",
    // Locales and messages of the C library. (Its converters, gconv, are in the library folders.)
    "/usr/lib/locale",
    "/usr/share/locale",
    "/etc/locale.alias",
    // libmagic's patterns, under the names that its versions use.
    "/usr/share/misc",
    "/usr/lib/file",
    "/usr/share/file",
    // Fonts, and fontconfig's settings. (Its cache contains only data of the fonts themselves.)
    "/etc/fonts",
    "/usr/share/fonts",
    "/usr/share/fontconfig",
    "/var/cache/fontconfig",
    // Certificates of the public authorities, and OpenSSL's folder of links to them. Certificates are public.
    // The machine's own keys are in /etc/ssl/private, which is not accessible although a link leads to it.
    "/etc/ssl/certs",
    "/usr/share/ca-certificates",
    "/usr/lib/ssl",
    "/etc/pki/ca-trust/extracted",
    "/etc/pki/tls/certs",
    // OpenSSL's settings: the providers it loads, and its minimum security level.
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/openssl.cnf",
    // ImageMagick's limits, fonts and formats. (Its coders are in the library folders.)
    "/etc/ImageMagick-6",
    "/etc/ImageMagick-7",
    "/usr/share/ImageMagick-6",
    "/usr/share/ImageMagick-7",
    // Map projections and formats of maps: without its grids PROJ returns other numbers.
    "/usr/share/proj",
    "/usr/share/gdal",
    // GLib: the types of files, and the settings' schemas.
    "/usr/share/mime",
    "/usr/share/glib-2.0",
    // Tables of poppler for text in PDF files.
    "/usr/share/poppler",
    // The system's Python packages, see also `VERSIONED`.
    "/usr/lib/python3",
    // Modules of other embedded interpreters, whose libraries look for them at fixed paths.
    "/etc/perl",
    "/usr/share/perl",
    "/usr/share/perl5",
    "/usr/lib/ruby",
    "/usr/share/ruby",
    "/usr/share/guile",
    "/usr/share/lua",
    "/usr/share/tcltk",
    "/usr/lib/R",
    "/usr/share/R",
    // Names of services and protocols, and types of files by their names (Python's mimetypes).
    "/etc/services",
    "/etc/protocols",
    "/etc/mime.types",
    // Terminals (ncurses), keyboards and locales of X11.
    "/etc/terminfo",
    "/usr/lib/terminfo",
    "/usr/share/terminfo",
    "/usr/share/X11",
    "/etc/X11/rgb.txt",
    // Catalogues and definitions of XML documents, which libraries would otherwise fetch from the network.
    "/etc/xml",
    "/usr/share/xml",
    // Text: Thai word breaks (pango), spelling, OCR, public suffixes of domains.
    "/usr/share/libthai",
    "/usr/share/hunspell",
    "/usr/share/myspell",
    "/usr/lib/aspell",
    "/usr/share/tesseract-ocr",
    "/usr/share/publicsuffix",
    // PostScript resources, and colour profiles.
    "/usr/share/ghostscript",
    "/usr/share/color",
    // Definitions of weather data.
    "/usr/share/eccodes",
    // Debug symbols of the system's libraries, used by backtraces.
    "/usr/lib/debug",
];

/// Folders with a version in their names (prefix, versions, suffix): Python's standard library, without which
/// an embedded interpreter can't start, and its settings; LLVM's libraries, to which links in the library
/// folders lead (OpenMP, libclang).
const VERSIONED: [(&str, std::ops::RangeInclusive<u32>, &str); 3] =
    [("/usr/lib/python3.", 8..=20, ""), ("/etc/python3.", 8..=20, ""), ("/usr/lib/llvm-", 11..=30, "/lib")];

/// Returns the library folders and the data files, each by the path at which a function finds it. This
/// machine may lack some of them. Each worker calls this at its start, so it lists no folder.
pub(crate) fn readable() -> Vec<PathBuf> {
    let versioned = VERSIONED.into_iter().flat_map(|(begin, versions, end)| {
        versions.map(move |version| PathBuf::from(format!("{begin}{version}{end}")))
    });
    library_folders().into_iter().chain(DATA.iter().map(PathBuf::from)).chain(versioned).collect()
}

/// Returns the folders of the system's libraries. A program may need any of them.
fn library_folders() -> BTreeSet<PathBuf> {
    let with = |file: &'static str| {
        let folders = LIBRARIES.iter().filter(move |folder| Path::new(folder).join(file).exists());
        folders.filter_map(|folder| fs::canonicalize(folder).ok()).collect()
    };
    let found: BTreeSet<PathBuf> = with("libc.so.6");
    // A system without glibc.
    if found.is_empty() { with("") } else { found }
}

/// Returns whether `name` is a valid name of a time zone: a path below the folder of zones, whether or not it
/// exists.
pub fn is_zone(name: &str) -> bool {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-/".contains(&byte);
    let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    !name.is_empty() && name.len() <= 64 && name.bytes().all(letters) && inside
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_names_folders_of_packages_alone() {
        let packages = ["/usr/share/", "/usr/lib/", "/etc/", "/var/cache/fontconfig"];
        for entry in DATA {
            assert!(packages.iter().any(|folder| entry.starts_with(folder)), "{entry}");
            assert!(!entry.contains("private"), "{entry}");
        }
    }

    #[test]
    fn the_c_library_is_in_a_folder_of_the_list_by_its_real_path() {
        let found = readable();
        let real = |path: &Path| fs::canonicalize(path).is_ok_and(|real| real == path);
        assert!(found.iter().any(|path| path.join("libc.so.6").exists() && real(path)), "{found:?}");
    }

    #[test]
    fn links_from_library_names_lead_to_folders_of_the_list() {
        let list = readable();
        let links =
            library_folders().into_iter().flat_map(|folder| fs::read_dir(folder).expect("it is there"));
        let links = links.flatten().map(|entry| entry.path()).filter(|path| path.is_symlink());
        let libraries = links.filter(|path| path.to_string_lossy().contains(".so"));
        let outside = |path: &PathBuf| {
            // Files outside of /usr/lib were installed by hand, not by a package.
            let real = fs::canonicalize(path).ok().filter(|real| real.starts_with("/usr/lib"))?;
            (!list.iter().any(|folder| real.starts_with(folder))).then_some((path.clone(), real))
        };
        let found: Vec<_> = libraries.filter_map(|path| outside(&path)).collect();
        assert!(found.is_empty(), "{found:#?}");
    }

    #[test]
    fn names_of_zones_lead_nowhere_else() {
        for good in
            ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+1", "posix/Asia/Tokyo"]
        {
            assert!(is_zone(good), "{good}");
        }
        for bad in ["", "/etc/passwd", "../passwd", "Europe/../../x", "a b", "Zone\n", "é", "."] {
            assert!(!is_zone(bad), "{bad}");
        }
        assert!(!is_zone(&"a".repeat(65)));
    }
}
