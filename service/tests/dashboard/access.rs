//! Pages are for all: readers with a screen reader, a keyboard or weak eyes.

use std::path::Path;

use crate::browser::Browser;

impl Browser {
    /// What axe-core finds on this page that is serious.
    pub(crate) async fn check_access(&self) {
        let axe = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .with_file_name("tools/axe/node_modules/axe-core/axe.min.js");
        let axe = std::fs::read_to_string(&axe).unwrap_or_else(|error| panic!("{}: {error}", axe.display()));
        self.run(&axe, Vec::new()).await;
        let script = "const done = arguments[0]; axe.run(document).then(found => done(found), why => done(String(why)));";
        let found = self.client.execute_async(script, Vec::new()).await.expect("axe runs");
        let passes = found["passes"].as_array().map_or(0, Vec::len);
        assert!(passes > 10, "axe has looked at little: {found}");
        let serious: Vec<String> = found["violations"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(|violation| ["serious", "critical"].iter().any(|impact| violation["impact"] == *impact))
            .map(|violation| format!("{}: {}", violation["help"], violation["nodes"]))
            .collect();
        assert!(serious.is_empty(), "{}", serious.join("\n"));
    }
}
