//! A service of the shop as a program of its own.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use net::{LogFormat, LogLevel, exit_code, init_log};
use node_sdk::NodeBuilder;

use crate::database::Database;

/// One service of the shop.
#[derive(Debug, Parser)]
#[command(version)]
struct ServiceArgs {
    /// Address to listen on; port 0 takes any that is free.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: String,
    /// Where the Distributor is.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9000")]
    distributor: String,
    /// The database; instances of one service may share it. A temporary file unless given.
    #[arg(long, value_name = "FILE")]
    database: Option<PathBuf>,
    /// Form of the log on standard error.
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
    /// off, error, warn, info, debug, trace, or levels per module.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: LogLevel,
}

/// Runs a service until a signal: opens its database, listens, registers.
pub fn run(tables: &str, node: impl FnOnce(Database) -> NodeBuilder) -> ExitCode {
    let args = ServiceArgs::parse();
    let _log = init_log(args.log_format, &args.log_level);
    match serve(args, tables, node) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit_code(&*error),
    }
}

fn serve(
    args: ServiceArgs,
    tables: &str,
    node: impl FnOnce(Database) -> NodeBuilder,
) -> Result<(), Box<dyn std::error::Error>> {
    // Lives, and is there, until the end of this function.
    let folder = tempfile::tempdir()?;
    let file = args.database.unwrap_or_else(|| folder.path().join("service.db"));
    let database = Database::open(&file, tables)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(node(database).listen(args.listen).distributor(args.distributor).serve())?;
    Ok(())
}
