// The classes that workers extend: module cloudflare:workers.

// What extends RpcTarget is to cross to others as a stub.
export class RpcTarget {}

export class DurableObject {
	constructor(ctx, env) {
		this.ctx = ctx;
		this.env = env;
	}
}

export class WorkerEntrypoint {
	constructor(ctx, env) {
		this.ctx = ctx;
		this.env = env;
	}
}

// WorkflowEntrypoint is there so that bundles load that import it.
export class WorkflowEntrypoint {
	constructor() {
		throw new Error('Workflows are not implemented in Holdfast.');
	}
}

// EmailMessage, of module cloudflare:email, is there for the same reason.
export class EmailMessage {
	constructor() {
		throw new Error('Email is not implemented in Holdfast.');
	}
}
