// structuredClone, by the host's codec, the same that stores values and passes them to other objects.

import { DOMException } from "./exception.js";
import { host } from "./host.js";
import { need } from "./idl.js";

export function structuredClone(value, options = {}) {
  need(arguments, 1, "structuredClone");
  const transfer = [...(options?.transfer ?? [])];
  for (const item of transfer) {
    if (!(item instanceof ArrayBuffer)) {
      throw new DOMException("Only an ArrayBuffer can be transferred.", "DataCloneError");
    }
    if (item.detached) {
      throw new DOMException("An ArrayBuffer to transfer is detached.", "DataCloneError");
    }
  }
  let copy;
  try {
    copy = host.clone(value);
  } catch (e) {
    // The host's error only has the name.
    throw e?.name === "DataCloneError" && !(e instanceof DOMException) ? new DOMException(e.message, e.name) : e;
  }
  for (const item of transfer) {
    item.transfer(0);
  }
  return copy;
}
