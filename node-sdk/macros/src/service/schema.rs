//! Schemas of the methods, if the service asks for them.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{Error, Expr, Ident, Lit, LitStr, Meta};

use super::method::{Answer, Method};
use crate::types::last_name;

/// Whether the settings ask for schemas, and what is wrong with them.
pub(super) fn setting(settings: TokenStream) -> (bool, Vec<Error>) {
    if settings.is_empty() {
        return (false, Vec::new());
    }
    let is_known = syn::parse2::<Ident>(settings.clone()).is_ok_and(|name| name == "schema");
    let text = match is_known {
        true if cfg!(feature = "schema") => return (true, Vec::new()),
        true => "schemas need the feature `schema` of node-sdk",
        false => "`#[service]` has one setting, `schema`: those of a method stand in `#[route(…)]`",
    };
    (false, vec![Error::new_spanned(settings, text)])
}

/// What the type of the arguments derives.
pub(super) fn derived() -> TokenStream {
    quote! {
        #[derive(::node_sdk::private::schemars::JsonSchema)]
        #[schemars(crate = "::node_sdk::private::schemars")]
    }
}

/// The setting behind a route that describes it.
pub(super) fn described(method: &Method) -> TokenStream {
    let (summary, error, part) = (summary(method), &method.error, method.answer.ty());
    let has_arguments = method.inputs.iter().any(|input| !input.is_extracted());
    let params = has_arguments.then(|| quote!(.params::<Arguments>()));
    let status = match last_name(&method.value).map(ToString::to_string).as_deref() {
        Some("Created") => quote!(.status(201)),
        Some("Accepted") => quote!(.status(202)),
        Some("NoContent") => quote!(.status(204)),
        _ => TokenStream::new(),
    };
    let in_parts = match &method.answer {
        Answer::Whole(_) => TokenStream::new(),
        Answer::Parts(_) => quote!(.in_parts()),
    };
    quote! {
        .described(
            <::node_sdk::private::RouteSchema as ::core::default::Default>::default()
                .summary(#summary)
                #params
                .result::<#part>()
                #status
                #in_parts
                .refusals(<#error as ::node_sdk::Refusal>::LISTED),
        )
    }
}

/// The first paragraph of the docs.
fn summary(method: &Method) -> String {
    let lines = method.attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(meta) if meta.path.is_ident("doc") => match &meta.value {
            Expr::Lit(literal) => text_of(&literal.lit),
            other => Some(other.to_token_stream().to_string()),
        },
        _ => None,
    });
    let lines: Vec<String> = lines.map(|line| line.trim().to_owned()).take_while(|line| !line.is_empty()).collect();
    lines.join(" ")
}

fn text_of(literal: &Lit) -> Option<String> {
    match literal {
        Lit::Str(text) => Some(LitStr::value(text)),
        _ => None,
    }
}
