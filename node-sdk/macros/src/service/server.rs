//! The side of the service: its routes, which call the methods.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Expr, Ident, Lit};

use super::method::{Default, Input, Method, Source};
use super::schema;

/// A node with the route of a method.
pub(super) fn offer(service: &Ident, method: &Method, has_schemas: bool) -> TokenStream {
    let (name, route) = (&method.name, &method.route.literal);
    let settings = method.settings.iter().map(|(name, values)| quote!(.#name(#values)));
    let extracted: Vec<&Input> = method.inputs.iter().filter(|input| input.is_extracted()).collect();
    let (extracted_names, extracted_types) = (names(&extracted), extracted.iter().map(|input| &input.ty));
    let given: Vec<&Input> = method.inputs.iter().filter(|input| !input.is_extracted()).collect();
    let given_names = names(&given);
    let (arguments, parameter, unpack) = if given.is_empty() {
        // A method without arguments does not read those of the caller.
        (TokenStream::new(), TokenStream::new(), TokenStream::new())
    } else {
        (
            arguments(&given, has_schemas),
            quote!(__arguments: ::node_sdk::Params<Arguments>),
            quote!(let ::node_sdk::Params(Arguments { #(#given_names),* }) = __arguments;),
        )
    };
    let described = has_schemas.then(|| schema::described(method));
    let all = method.inputs.iter().map(|input| &input.name);
    quote! {
        {
            #arguments
            let __service = ::std::sync::Arc::clone(&__service);
            node.route(#route, move |#(#extracted_names: #extracted_types,)* #parameter| {
                let __service = ::std::sync::Arc::clone(&__service);
                async move {
                    #unpack
                    <Self as #service>::#name(&*__service, #(#all),*).await
                }
            })
            #(#settings)*
            #described
        }
    }
}

/// The type that the arguments of a call are read into.
fn arguments(given: &[&Input], has_schemas: bool) -> TokenStream {
    let members = given.iter().enumerate().map(|(index, input)| {
        let (name, ty) = (&input.name, &input.ty);
        let default = match &input.source {
            Source::Member(Some(Default::OfType)) => quote!(#[serde(default)]),
            Source::Member(Some(Default::Value(_))) => {
                let function = format!("Defaults::value_{index}");
                quote!(#[serde(default = #function)])
            }
            Source::Member(None) | Source::Path | Source::Call => TokenStream::new(),
        };
        quote!(#default #name: #ty)
    });
    let values = given.iter().enumerate().filter_map(|(index, input)| match &input.source {
        Source::Member(Some(Default::Value(value))) => {
            let (name, ty) = (quote::format_ident!("value_{index}"), &input.ty);
            // A text is given as a literal, and the argument owns it.
            let is_text = matches!(&**value, Expr::Lit(literal) if matches!(literal.lit, Lit::Str(_)));
            let value = if is_text { quote!(::core::convert::Into::into(#value)) } else { quote!(#value) };
            Some(quote!(fn #name() -> #ty { #value }))
        }
        Source::Member(_) | Source::Path | Source::Call => None,
    });
    let schema = has_schemas.then(schema::derived);
    quote! {
        #schema
        #[derive(::node_sdk::private::Deserialize)]
        #[serde(crate = "::node_sdk::private::serde", expecting = "struct Arguments")]
        struct Arguments { #(#members),* }
        #[allow(dead_code)]
        struct Defaults;
        #[allow(dead_code)]
        impl Defaults { #(#values)* }
    }
}

fn names<'a>(inputs: &[&'a Input]) -> Vec<&'a Ident> {
    inputs.iter().map(|input| &input.name).collect()
}
