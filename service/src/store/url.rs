//! Name of the database on the command line.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

/// Where the database is.
#[derive(Clone)]
pub enum Database {
    /// An SQLite file, of one gateway.
    File(PathBuf),
    /// A database of a PostgreSQL server, of any number of gateways.
    Server(Box<PgConnectOptions>),
}

impl FromStr for Database {
    type Err = String;

    /// `postgres://user:password@host:port/database?sslmode=verify-full`, or `sqlite://` and a path.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("sqlite://") {
            return Ok(Database::File(path.into()));
        }
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err("it begins with postgres:// (a server) or sqlite:// (a file)".to_owned());
        }
        // The parser's error may quote the address, and with it the password.
        let options = text
            .parse()
            .map_err(|_| "it is not of the form postgres://user:password@host:port/database".to_owned())?;
        Ok(Database::Server(Box::new(options)))
    }
}

/// Without the password.
impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Database::File(path) => write!(f, "{}", path.display()),
            Database::Server(options) => {
                let host = match options.get_socket() {
                    Some(socket) => socket.display().to_string(),
                    None => format!("{}:{}", options.get_host(), options.get_port()),
                };
                let (user, name) = (options.get_username(), options.get_database().unwrap_or_default());
                write!(f, "{name:?} of {user} at {host} (PostgreSQL)")
            }
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_named_by_what_it_begins_with_and_shown_without_its_password() {
        let server: Database =
            "postgres://u:secret@db.example:6000/fastmap?sslmode=require".parse().expect("a server");
        assert_eq!(format!("{server:?}"), "\"fastmap\" of u at db.example:6000 (PostgreSQL)");
        let file: Database = "sqlite:///var/x.sqlite".parse().expect("a file");
        assert!(matches!(file, Database::File(path) if path.as_os_str() == "/var/x.sqlite"));
        for wrong in ["mysql://h/d", "fastmap.sqlite", "postgres://h:port/d"] {
            let why = wrong.parse::<Database>().expect_err(wrong);
            assert!(why.contains("postgres://"), "{why}");
        }
    }
}
