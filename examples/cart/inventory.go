package cart

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/examples/cart/cartv1"
)

// inventoryClass is the name of the class Inventory.
const inventoryClass = "Inventory"

// InventoryClass describes the class Inventory to a node.
func InventoryClass() actor.Class {
	return actor.NewClass(inventoryClass, &cartv1.Inventory_ServiceDesc, newInventory)
}

func newInventory(s *actor.State) cartv1.InventoryServer { return &Inventory{storage: s.Storage()} }

// What an inventory stores: what can still be reserved, and for each order what it has reserved.
const (
	availableKey = "available"
	orderPrefix  = "order/"
)

// orderMax is how many bytes an order's id may have.
const orderMax = 200

// Inventory is the stock of one article.
type Inventory struct {
	cartv1.UnimplementedInventoryServer

	storage *actor.Storage
}

// Restock adds to what is available.
func (i *Inventory) Restock(_ context.Context, req *cartv1.RestockRequest) (*cartv1.StockResponse, error) {
	available, err := i.available()
	if err != nil {
		return nil, err
	}
	if available+req.GetQuantity() < available {
		return nil, status.Errorf(codes.InvalidArgument, "quantity: %d are available, and with %d more there are too many to count", available, req.GetQuantity())
	}
	return i.setAvailable(available + req.GetQuantity())
}

// Stock returns what is available.
func (i *Inventory) Stock(context.Context, *cartv1.StockRequest) (*cartv1.StockResponse, error) {
	available, err := i.available()
	return &cartv1.StockResponse{Available: available}, err
}

// Reserve sets a quantity aside for an order, once.
func (i *Inventory) Reserve(_ context.Context, req *cartv1.ReserveRequest) (*cartv1.StockResponse, error) {
	if n := len(req.GetOrder()); n < 1 || n > orderMax {
		return nil, status.Errorf(codes.InvalidArgument, "order: must have 1 to %d bytes, has %d", orderMax, n)
	}
	available, err := i.available()
	if err != nil {
		return nil, err
	}
	if _, done, err := i.storage.Get(orderPrefix + req.GetOrder()); err != nil || done {
		return &cartv1.StockResponse{Available: available}, err
	}
	if available < req.GetQuantity() {
		return nil, status.Errorf(codes.FailedPrecondition, "%d of them are available, not %d", available, req.GetQuantity())
	}
	if err := actor.Put(i.storage, orderPrefix+req.GetOrder(), req.GetQuantity()); err != nil {
		return nil, err
	}
	return i.setAvailable(available - req.GetQuantity())
}

// Release puts back what was set aside for an order, if anything was.
func (i *Inventory) Release(_ context.Context, req *cartv1.ReleaseRequest) (*cartv1.StockResponse, error) {
	available, err := i.available()
	if err != nil {
		return nil, err
	}
	reserved, ok, err := actor.Get[uint32](i.storage, orderPrefix+req.GetOrder())
	if err != nil || !ok {
		return &cartv1.StockResponse{Available: available}, err
	}
	if _, err := i.storage.Delete(orderPrefix + req.GetOrder()); err != nil {
		return nil, err
	}
	return i.setAvailable(available + reserved)
}

func (i *Inventory) available() (uint32, error) {
	n, _, err := actor.Get[uint32](i.storage, availableKey)
	return n, err
}

func (i *Inventory) setAvailable(n uint32) (*cartv1.StockResponse, error) {
	return &cartv1.StockResponse{Available: n}, actor.Put(i.storage, availableKey, n)
}
