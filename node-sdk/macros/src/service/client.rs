//! The side of the callers.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::ItemTrait;
use syn::ext::IdentExt;

use super::method::{Answer, Input, Method, Source};
use crate::route_syntax::Segment;

/// The client of a service.
pub(super) fn client(service: &ItemTrait, methods: &[Method]) -> TokenStream {
    let (visibility, name) = (&service.vis, &service.ident);
    let client = format_ident!("{name}Client");
    let docs = format!("Calls [`{name}`]. Settings of the client hold for all of its calls.");
    let new = format!("A client that calls the nodes which offer [`{name}`].");
    let calls = methods.iter().map(|method| call(service, method));
    quote! {
        #[doc = #docs]
        #[derive(Clone, Copy, Debug)]
        #visibility struct #client<'a>(::node_sdk::private::ServiceClient<'a>);

        #[allow(dead_code)]
        impl<'a> #client<'a> {
            #[doc = #new]
            #visibility fn new(peers: &'a ::node_sdk::Peers) -> Self {
                Self(::node_sdk::private::ServiceClient::new(peers))
            }

            /// As [`Call::timeout`](::node_sdk::Call::timeout), for each call.
            #visibility fn timeout(mut self, timeout: ::core::time::Duration) -> Self {
                self.0.settings.timeout = Some(timeout);
                self
            }

            /// As [`Call::sticky_key`](::node_sdk::Call::sticky_key), for each call.
            #visibility fn sticky_key(mut self, key: &'a str) -> Self {
                self.0.settings.sticky_key = Some(key);
                self
            }

            /// As [`Call::to_instance`](::node_sdk::Call::to_instance), for each call.
            #visibility fn to_instance(mut self, instance: &'a str) -> Self {
                self.0.settings.instance = Some(instance);
                self
            }

            /// As [`Call::balance`](::node_sdk::Call::balance), for each call.
            #visibility fn balance(mut self, balance: ::node_sdk::Balance) -> Self {
                self.0.settings.balance = Some(balance);
                self
            }

            #(#calls)*
        }
    }
}

fn call(service: &ItemTrait, method: &Method) -> TokenStream {
    let (visibility, name, attributes) = (&service.vis, &method.name, &method.attributes);
    let given: Vec<&Input> = method.inputs.iter().filter(|input| !input.is_extracted()).collect();
    let (names, types) = (given.iter().map(|input| &input.name), given.iter().map(|input| &input.ty));
    let members: Vec<&Input> = method.members().collect();
    let (declared, arguments) = if members.is_empty() {
        (TokenStream::new(), quote!(()))
    } else {
        let (names, types) = (members.iter().map(|input| &input.name), members.iter().map(|input| &input.ty));
        let values = names.clone();
        let declared = quote! {
            #[derive(::node_sdk::private::Serialize)]
            #[serde(crate = "::node_sdk::private::serde")]
            struct Arguments { #(#names: #types),* }
        };
        (declared, quote!(Arguments { #(#values),* }))
    };
    let (error, url) = (&method.error, url(method));
    let (call, open) = match (&method.answer, &method.sent) {
        (Answer::Whole(value), None) => (quote!(::node_sdk::ServiceCall<'a, #value, #error>), quote!(call)),
        (answer, sent) => {
            let part = answer.ty();
            let sent = sent.as_ref().map_or_else(|| quote!(::core::convert::Infallible), |sent| quote!(#sent));
            (quote!(::node_sdk::ServiceStreamCall<'a, #part, #error, #sent>), quote!(stream))
        }
    };
    quote! {
        #(#attributes)*
        #visibility fn #name(&self, #(#names: #types),*) -> #call {
            #declared
            self.0.#open(#url, &#arguments)
        }
    }
}

/// The url of a call, which is written piece by piece.
fn url(method: &Method) -> TokenStream {
    let literal = &method.route.literal;
    let (verb, segments) = method.route.parts();
    let (mut text, mut writes) = (verb.to_owned(), Vec::new());
    for segment in segments {
        text.push('/');
        match segment {
            Segment::Literal(literal) => text.push_str(literal),
            Segment::Parameter(name) => {
                let inputs = method.inputs.iter().filter(|input| matches!(input.source, Source::Path));
                let input = inputs.into_iter().find(|input| input.name.unraw() == name).map(|input| &input.name);
                writes.push(quote!(.text(#text).parameter(&#input)));
                text.clear();
            }
        }
    }
    quote!(::node_sdk::private::ServiceUrl::new(#literal) #(#writes)* .text(#text))
}
