//! The commands that look at and change the database. They work beside a running service: SQLite lets one write at a
//! time, PostgreSQL many, and the service looks at tokens again after a second.

use std::path::Path;

use anyhow::{Context, bail};
use fastmap_backends::{counted, in_credits};
use serde_json::{Value, json};

use super::args::{Account, Credits, Runs, Token};
use super::output;
use super::service_key::open_key;
use crate::cli::service_args::Common;
use crate::clock::now_ms;
use crate::config::DataFolder;
use crate::keys::new_secret;
use crate::store::Store;
use crate::{pricing, store};

async fn open(common: &Common) -> anyhow::Result<Store> {
    let (data, database) = (&common.keep.data, common.keep.database()?);
    DataFolder::new(data).create().with_context(|| format!("cannot make the folder {}", data.display()))?;
    Store::open(&database).await.with_context(|| format!("cannot open the database {database}"))
}

async fn find(store: &Store, name: &str) -> anyhow::Result<store::Account> {
    store.account(name).await?.with_context(|| format!("there is no account {name:?}"))
}

fn describe(account: &store::Account) -> Value {
    json!({
        "name": account.name,
        "credits": pricing::show(account.balance),
        "reserved": pricing::show(account.held),
        "created_ms": account.created_ms,
    })
}

pub(super) async fn account(command: Account) -> anyhow::Result<()> {
    match command {
        Account::Create { name, credits, common } => {
            let store = open(&common).await?;
            let account = store.create_account(&name, credits).await?;
            let text = format!(
                "account {name} with {}; make it a token: fastmap token create {name}",
                in_credits(credits)
            );
            output::object(common.json, &describe(&account), &text)?;
        }
        Account::List { common } => {
            let store = open(&common).await?;
            let accounts: Vec<Value> = store.accounts().await?.iter().map(describe).collect();
            output::list(common.json, &accounts, &["name", "credits", "reserved"])?;
        }
        Account::Operator { name, no, common } => {
            let store = open(&common).await?;
            let account = find(&store, &name).await?;
            store.set_operator(&name, !no).await?;
            let mut value = describe(&account);
            value["operator"] = (!no).into();
            let text =
                format!("{name} is {} now", if no { "an ordinary account" } else { "an operator's account" });
            output::object(common.json, &value, &text)?;
        }
        Account::Show { name, common } => {
            let store = open(&common).await?;
            let account = find(&store, &name).await?;
            let tokens = store.tokens(Some(account.id)).await?;
            let live = tokens.iter().filter(|token| token.revoked_ms.is_none()).count();
            let mut value = describe(&account);
            value["tokens"] = live.into();
            let (balance, held) = (in_credits(account.balance), pricing::show(account.held));
            let tokens = counted(live as u64, "token");
            let text = format!("{name}: {balance}, {held} of that reserved; {tokens}");
            output::object(common.json, &value, &text)?;
        }
    }
    Ok(())
}

pub(super) async fn token(command: Token) -> anyhow::Result<()> {
    match command {
        Token::Create { account, label, days, common } => {
            let store = open(&common).await?;
            let account = find(&store, &account).await?;
            let expires = days.map(|days| now_ms() + i64::from(days) * 24 * 3600 * 1000);
            give(&common, &store, &account, &label, expires).await
        }
        Token::List { account, common } => {
            let store = open(&common).await?;
            let account = match account {
                Some(name) => Some(find(&store, &name).await?.id),
                None => None,
            };
            let tokens = store.tokens(account).await?;
            let now = now_ms();
            let describe = |token: &store::TokenInfo| {
                let state = match token {
                    _ if token.revoked_ms.is_some() => "revoked",
                    _ if token.expires_ms.is_some_and(|expires| expires <= now) => "expired",
                    _ => "good",
                };
                json!({
                    "id": token.id, "account": token.account, "label": token.label, "state": state,
                    "created_ms": token.created_ms, "expires_ms": token.expires_ms, "revoked_ms": token.revoked_ms,
                })
            };
            let values: Vec<Value> = tokens.iter().map(describe).collect();
            Ok(output::list(common.json, &values, &["id", "account", "label", "state"])?)
        }
        Token::Revoke { id, common } => {
            let store = open(&common).await?;
            if !store.revoke_token(id).await? {
                bail!("there is no token {id} that is not revoked");
            }
            let text = format!("token {id} is revoked; a running service knows within a second");
            Ok(output::object(common.json, &json!({ "id": id, "state": "revoked" }), &text)?)
        }
        Token::Rotate { id, common } => {
            let store = open(&common).await?;
            let tokens = store.tokens(None).await?;
            let old = tokens.iter().find(|token| token.id == id && token.revoked_ms.is_none());
            let old = old.with_context(|| format!("there is no token {id} that is not revoked"))?;
            let account = find(&store, &old.account).await?;
            give(&common, &store, &account, &old.label, old.expires_ms).await?;
            // The new one first: a failure leaves two, not none.
            store.revoke_token(id).await?;
            Ok(())
        }
    }
}

/// Makes a token and shows its secret.
async fn give(
    common: &Common,
    store: &Store,
    account: &store::Account,
    label: &str,
    expires_ms: Option<i64>,
) -> anyhow::Result<()> {
    let key = open_key(store, &common.keep.key()).await?;
    let secret = new_secret().context("no random bytes")?;
    let id = store.add_token(account.id, &secret, &key, label, expires_ms).await?;
    let value = json!({ "id": id, "account": account.name, "label": label, "expires_ms": expires_ms,
        "secret": secret.reveal() });
    let text = format!(
        "token {id} of {}; its secret is shown this once:\nexport FASTMAP_SECRET={}",
        account.name,
        secret.reveal()
    );
    Ok(output::object(common.json, &value, &text)?)
}

pub(super) async fn credits(command: Credits) -> anyhow::Result<()> {
    match command {
        Credits::Add { account, amount, note, common } => {
            let store = open(&common).await?;
            let found = find(&store, &account).await?;
            let balance = store.adjust(found.id, amount, note.as_deref()).await?;
            let text = format!("{account} has {} now", in_credits(balance));
            let value = json!({ "name": account, "credits": pricing::show(balance) });
            output::object(common.json, &value, &text)?;
        }
        Credits::Show { account, entries, common } => {
            let store = open(&common).await?;
            let found = find(&store, &account).await?;
            let describe = |entry: &store::Entry| {
                json!({
                    "id": entry.id, "kind": entry.kind, "amount": pricing::show(entry.amount),
                    "balance": pricing::show(entry.balance), "run": entry.run, "batch": entry.seq, "note": entry.note,
                    "created_ms": entry.created_ms,
                })
            };
            let ledger: Vec<Value> = store.ledger(found.id, entries).await?.iter().map(describe).collect();
            if common.json {
                let mut value = self::describe(&found);
                value["ledger"] = ledger.into();
                output::object(true, &value, "")?;
            } else {
                let (balance, held) = (in_credits(found.balance), pricing::show(found.held));
                output::object(false, &Value::Null, &format!("{balance}, {held} of that reserved"))?;
                output::list(false, &ledger, &["id", "kind", "amount", "balance", "run", "batch", "note"])?;
            }
        }
        Credits::Audit { common } => {
            let store = open(&common).await?;
            let found = store.audit().await?;
            let text = if found.is_empty() {
                "all balances follow from the ledger".to_owned()
            } else {
                found.join("\n")
            };
            output::object(common.json, &json!({ "wrong": found }), &text)?;
            if !found.is_empty() {
                bail!("{} balances are wrong", found.len());
            }
        }
    }
    Ok(())
}

pub(super) async fn backup(file: &Path, common: &Common) -> anyhow::Result<()> {
    let store = open(common).await?;
    if !store.copy_to(file).await? {
        bail!("the database is PostgreSQL; say: pg_dump --format=custom --file={}", file.display());
    }
    let bytes = std::fs::metadata(file).map_or(0, |metadata| metadata.len());
    let text = format!("{bytes} bytes in {}; keep service.key, too, and apart from it", file.display());
    Ok(output::object(common.json, &json!({ "file": file, "bytes": bytes }), &text)?)
}

pub(super) async fn runs(command: Runs) -> anyhow::Result<()> {
    match command {
        Runs::List { account, most, common } => {
            let store = open(&common).await?;
            let account = match account {
                Some(name) => Some(find(&store, &name).await?.id),
                None => None,
            };
            let runs = store.runs(account, None, most).await?;
            let runs: Vec<Value> = runs.iter().map(describe_run).collect::<Result<_, _>>()?;
            output::list(
                common.json,
                &runs,
                &["run", "label", "state", "batches", "items_answered", "credits"],
            )?;
        }
        Runs::Show { run, common } => {
            let store = open(&common).await?;
            let found = store.run(None, &run).await?;
            let value = describe_run(&found.with_context(|| format!("there is no run {run:?}"))?)?;
            let line = |(key, value): (&String, &Value)| format!("{key:15} {value}");
            let lines: Vec<String> = value.as_object().into_iter().flatten().map(line).collect();
            output::object(common.json, &value, &lines.join("\n"))?;
        }
    }
    Ok(())
}

fn describe_run(run: &store::Run) -> serde_json::Result<Value> {
    let mut value = serde_json::to_value(&run.info)?;
    value["credits"] = pricing::show(run.info.spent).into();
    value["reason"] = run.reason.clone().into();
    Ok(value)
}
