use clap::Parser;

/// What a program is told that tries many things and prints a table of what came of them.
#[derive(Debug, Parser)]
pub struct Arguments {
    /// What takes long is left out.
    #[arg(long)]
    pub short: bool,
    /// The command `fastmap`.
    #[arg(long)]
    pub service: Option<String>,
    /// Only things whose names contain one of these, in capitals or not.
    pub names: Vec<String>,
}

impl Arguments {
    /// Whether a thing of that name is to be tried.
    pub fn wants(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        self.names.is_empty() || self.names.iter().any(|wanted| name.contains(&wanted.to_lowercase()))
    }
}
