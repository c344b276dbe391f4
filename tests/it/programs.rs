//! The programs that tests start: where cargo has put them.

pub(crate) const DISTRIBUTOR: &str = env!("CARGO_BIN_EXE_distributor_process");
pub(crate) const GATEWAY: &str = env!("CARGO_BIN_EXE_gateway_process");
pub(crate) const GOODS: &str = env!("CARGO_BIN_EXE_goods_process");
pub(crate) const HELLO: &str = env!("CARGO_BIN_EXE_hello_process");
pub(crate) const KIT: &str = env!("CARGO_BIN_EXE_kit_process");
pub(crate) const NODE: &str = env!("CARGO_BIN_EXE_node_process");
pub(crate) const NODECONFORM: &str = env!("CARGO_BIN_EXE_nodeconform_process");
pub(crate) const SHOP: &str = env!("CARGO_BIN_EXE_shop_process");
pub(crate) const STORE: &str = env!("CARGO_BIN_EXE_store_process");
