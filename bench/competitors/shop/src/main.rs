//! `tonic-shop FOLDER [PORT [PORT [PORT]]]` runs the three services of the shop at fixed addresses,
//! without a registry.

mod database;
mod goods;
mod members;
mod proto {
    tonic::include_proto!("shop");
}
mod purchases;

use std::net::SocketAddr;
use std::path::PathBuf;

use tonic::transport::{Endpoint, Server};

use crate::database::Database;
use crate::goods::GoodsService;
use crate::members::MembersService;
use crate::proto::goods_client::GoodsClient;
use crate::proto::goods_server::GoodsServer;
use crate::proto::members_client::MembersClient;
use crate::proto::members_server::MembersServer;
use crate::proto::purchases_server::PurchasesServer;
use crate::purchases::PurchasesService;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("give a folder for the databases")?);
    let mut port = |usual: u16| arguments.next().map_or(Ok(usual), |port| port.parse());
    let [members, goods, purchases] = [port(50051)?, port(50052)?, port(50053)?];
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let channel = |port| Endpoint::from_shared(format!("http://127.0.0.1:{port}")).map(|at| at.connect_lazy());
    let members_service = MembersService { database: Database::open(&folder.join("members.db"), members::TABLES)? };
    let goods_service = GoodsService { database: Database::open(&folder.join("goods.db"), goods::TABLES)? };
    let purchases_service = PurchasesService {
        database: Database::open(&folder.join("purchases.db"), purchases::TABLES)?,
        members: MembersClient::new(channel(members)?),
        goods: GoodsClient::new(channel(goods)?),
    };
    tokio::try_join!(
        Server::builder().add_service(MembersServer::new(members_service)).serve(address(members)),
        Server::builder().add_service(GoodsServer::new(goods_service)).serve(address(goods)),
        Server::builder().add_service(PurchasesServer::new(purchases_service)).serve(address(purchases)),
    )?;
    Ok(())
}
