//! `#[service]`: a trait that a service implements, and from which its client is made.
//!
//! It must not read types: it knows of them only their text. What a type has to be is checked by
//! the compiler, at the type.

mod client;
mod method;
mod schema;
mod server;

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, FnArg, ItemTrait, ReturnType, TraitItem, TraitItemFn};

use self::method::Method;

/// The trait as it is compiled, and its client.
pub(crate) fn expand(settings: TokenStream, service: &ItemTrait) -> TokenStream {
    let (has_schemas, mut mistakes) = schema::setting(settings);
    mistakes.extend(self::mistakes(service));
    let mut methods = Vec::new();
    for function in functions(service) {
        match Method::parse(function) {
            Ok(method) => methods.push(method),
            Err(error) => mistakes.push(error),
        }
    }
    mistakes.extend(doubled_routes(&methods));
    let errors = mistakes.into_iter().map(Error::into_compile_error);
    let (attributes, visibility, name) = (&service.attrs, &service.vis, &service.ident);
    let supertraits = service.supertraits.iter();
    let signatures = functions(service).map(signature);
    let (offers, checks) =
        (methods.iter().map(|method| server::offer(name, method, has_schemas)), methods.iter().map(checks));
    let client = client::client(service, &methods);
    quote! {
        #(#errors)*

        const _: () = {
            #(#checks)*
        };

        #(#attributes)*
        #visibility trait #name: #(#supertraits +)* Sized + Send + Sync + 'static {
            #(#signatures)*

            /// Adds its routes to a node.
            fn offer(self, node: ::node_sdk::NodeBuilder) -> ::node_sdk::NodeBuilder {
                let __service = ::std::sync::Arc::new(self);
                #(let node = #offers;)*
                let _ = __service;
                node
            }
        }

        #client
    }
}

fn functions(service: &ItemTrait) -> impl Iterator<Item = &TraitItemFn> {
    service.items.iter().filter_map(|item| match item {
        TraitItem::Fn(function) => Some(function),
        _ => None,
    })
}

/// The mistakes of the trait, apart from those of its methods.
fn mistakes(service: &ItemTrait) -> Vec<Error> {
    let mut mistakes = Vec::new();
    if !service.generics.params.is_empty() {
        mistakes.push(Error::new_spanned(&service.generics, "a service is not generic: name the types"));
    }
    for item in &service.items {
        if !matches!(item, TraitItem::Fn(_)) {
            mistakes.push(Error::new_spanned(item, "a service has only methods"));
        }
    }
    mistakes
}

/// Two methods of one route, whatever their parameters are called.
fn doubled_routes(methods: &[Method]) -> Vec<Error> {
    let mut doubled = Vec::new();
    for (index, method) in methods.iter().enumerate() {
        let unnamed = method.route.unnamed();
        if let Some(other) = methods[..index].iter().find(|other| other.route.unnamed() == unnamed) {
            let text = format!("this is the route of `{}`, too: a call could mean either", other.name);
            doubled.push(Error::new(method.route.literal.span(), text));
        }
    }
    doubled
}

/// The method as it stands in the trait: without our attributes, and with a future that is `Send`.
fn signature(function: &TraitItemFn) -> TokenStream {
    let docs = method::other_attributes(&function.attrs);
    let mut signature = function.sig.clone();
    for argument in &mut signature.inputs {
        match argument {
            FnArg::Receiver(_) => {}
            FnArg::Typed(typed) => typed.attrs.clear(),
        }
    }
    if signature.asyncness.take().is_some() {
        let result = match &signature.output {
            ReturnType::Default => quote!(()),
            ReturnType::Type(_, ty) => quote!(#ty),
        };
        let at = signature.output.span();
        signature.output = ReturnType::Type(
            syn::Token![->](at),
            Box::new(syn::Type::Verbatim(quote!(impl ::core::future::Future<Output = #result> + ::core::marker::Send))),
        );
    }
    quote!(#(#docs)* #signature;)
}

/// Checks of the types of a method, each of which the compiler reports at the place of its type.
fn checks(method: &Method) -> TokenStream {
    let extracted = method.inputs.iter().filter(|input| input.is_extracted()).map(|input| {
        let ty = &input.ty;
        quote_spanned!(ty.span()=> ::node_sdk::private::check_argument::<#ty>();)
    });
    let (value, error, part) = (&method.value, &method.error, method.answer.ty());
    let value = quote_spanned!(value.span()=> ::node_sdk::private::check_value::<#value>(););
    let part = quote_spanned!(part.span()=> ::node_sdk::private::check_read::<#part>(););
    let error = quote_spanned!(error.span()=> ::node_sdk::private::check_refusal::<#error>(););
    let name = format_ident!("check_{}", method.name);
    quote! {
        #[allow(dead_code, non_snake_case)]
        fn #name() {
            #(#extracted)*
            #value
            #part
            #error
        }
    }
}
