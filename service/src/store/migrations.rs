//! Tables of both kinds of database, by version. A version that has been used is never changed. Types and
//! triggers, which differ between the two databases, are in these scripts alone.

use std::borrow::Cow;

use sqlx::SqlStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

macro_rules! scripts {
    ($kind:literal: $($version:literal $name:literal),+) => {
        migrator([$((
            $version,
            $name,
            include_str!(concat!("../../migrations/", $kind, "/00", $version, "_", $name, ".sql")),
        )),+])
    };
}

pub(super) fn sqlite() -> Migrator {
    scripts!(
        "sqlite": "01" "begin", "02" "carried", "10" "dashboard", "20" "gateways", "30" "use", "40" "bounds",
        "45" "locale"
    )
}

pub(super) fn postgres() -> Migrator {
    scripts!(
        "postgres": "01" "begin", "10" "dashboard", "20" "gateways", "30" "use", "40" "bounds", "45" "locale"
    )
}

fn migrator<const N: usize>(scripts: [(&str, &'static str, &'static str); N]) -> Migrator {
    let migrations = scripts.into_iter().map(|(version, name, sql)| {
        let version = version.parse().expect("a number stands above");
        Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, SqlStr::from_static(sql), false)
    });
    Migrator::with_migrations(migrations.collect())
}
