// The URLPattern chunk.

export { URLPattern } from "urlpattern-polyfill/urlpattern";
