package cart

// NewInventory is for tests that put something in front of an Inventory.
var NewInventory = newInventory
