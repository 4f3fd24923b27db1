// Package cart is a shopping cart that calls other objects: an order takes from the inventories of its
// articles, all of them or none.
//
//	holdfast call Cart ann Add '{"article": "apple", "quantity": 3}'
package cart

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/examples/cart/cartv1"
)

// Class describes the class Cart to a node; it needs InventoryClass as well.
func Class() actor.Class {
	return actor.NewClass("Cart", &cartv1.Cart_ServiceDesc, func(s *actor.State) cartv1.CartServer {
		return &Cart{state: s, storage: s.Storage()}
	})
}

// What a cart stores.
const (
	itemPrefix    = "item/"    // and an article: its quantity
	orderedKey    = "ordered"  // how many orders were begun
	checkoutKey   = "checkout" // the order whose articles are being reserved
	historyPrefix = "order/"   // and a number: an order
)

const (
	articleMax = 200  // bytes
	itemsMax   = 1000 // articles in a cart
)

// Cart is one customer's cart.
type Cart struct {
	cartv1.UnimplementedCartServer

	state   *actor.State
	storage *actor.Storage
}

// Add puts more of an article into the cart.
func (c *Cart) Add(_ context.Context, req *cartv1.AddRequest) (*cartv1.CartState, error) {
	article := req.GetArticle()
	if n := len(article); n < 1 || n > articleMax {
		return nil, status.Errorf(codes.InvalidArgument, "article: must have 1 to %d bytes, has %d", articleMax, n)
	}
	add := uint32(1)
	if req.Quantity != nil {
		add = req.GetQuantity()
	}
	if err := c.open(); err != nil {
		return nil, err
	}
	items, err := c.items()
	if err != nil {
		return nil, err
	}
	quantity := items[article] + add
	if add == 0 || quantity < add {
		return nil, status.Errorf(codes.InvalidArgument, "quantity: must be at least 1, and no more than can be counted; is %d", add)
	}
	if items[article] == 0 && len(items) >= itemsMax {
		return nil, status.Errorf(codes.InvalidArgument, "article: at most %d different ones in a cart", itemsMax)
	}
	if err := actor.Put(c.storage, itemPrefix+article, quantity); err != nil {
		return nil, err
	}
	return c.content()
}

// Remove takes an article out of the cart.
func (c *Cart) Remove(_ context.Context, req *cartv1.RemoveRequest) (*cartv1.CartState, error) {
	if err := c.open(); err != nil {
		return nil, err
	}
	if _, err := c.storage.Delete(itemPrefix + req.GetArticle()); err != nil {
		return nil, err
	}
	return c.content()
}

// Get returns what is in the cart, and the orders.
func (c *Cart) Get(context.Context, *cartv1.GetRequest) (*cartv1.CartState, error) {
	return c.content()
}

// Checkout orders what is in the cart.
//
// What a call of another object does can't be taken back by this one's transaction. So the order is
// written down before the first call, and each call is one that may be made again: wherever a checkout
// is cut off, the next one finds the order and goes on.
func (c *Cart) Checkout(ctx context.Context, _ *cartv1.CheckoutRequest) (*cartv1.Order, error) {
	order, err := c.begin()
	if err != nil {
		return nil, err
	}
	for _, article := range slices.Sorted(maps.Keys(order.GetItems())) {
		_, err := c.inventory(article).Reserve(ctx, &cartv1.ReserveRequest{Order: order.GetId(), Quantity: order.GetItems()[article]})
		if status.Code(err) == codes.FailedPrecondition {
			return nil, c.giveUp(ctx, order, fmt.Errorf("%s: %s", article, status.Convert(err).Message()))
		}
		if err != nil {
			return nil, err // It may or may not be reserved: the next Checkout finds out.
		}
	}
	return order, c.finish(order)
}

// begin returns the order that is being checked out, a new one if there is none. It is durable before
// the first call leaves.
func (c *Cart) begin() (*cartv1.Order, error) {
	if order, ok, err := actor.Get[*cartv1.Order](c.storage, checkoutKey); err != nil || ok {
		return order, err
	}
	items, err := c.items()
	if err != nil {
		return nil, err
	}
	if len(items) == 0 {
		return nil, status.Error(codes.FailedPrecondition, "the cart is empty: add something first")
	}
	number, _, err := actor.Get[int64](c.storage, orderedKey)
	if err != nil {
		return nil, err
	}
	order := &cartv1.Order{Id: fmt.Sprintf("%s-%d", c.state.ID(), number+1), Items: items}
	if err := actor.Put(c.storage, orderedKey, number+1); err != nil {
		return nil, err
	}
	return order, actor.Put(c.storage, checkoutKey, order)
}

// finish makes an order of a cart whose articles are all reserved: at once or not at all.
func (c *Cart) finish(order *cartv1.Order) error {
	return c.storage.Transaction(func(tx *actor.Storage) error {
		number, _, err := actor.Get[int64](tx, orderedKey)
		if err != nil {
			return err
		}
		if err := actor.Put(tx, fmt.Sprintf("%s%019d", historyPrefix, number), order); err != nil {
			return err
		}
		for article := range order.GetItems() {
			if _, err := tx.Delete(itemPrefix + article); err != nil {
				return err
			}
		}
		_, err = tx.Delete(checkoutKey)
		return err
	})
}

// giveUp puts back what was reserved, and returns why nothing was ordered. The cart stays as it is.
func (c *Cart) giveUp(ctx context.Context, order *cartv1.Order, why error) error {
	for article := range order.GetItems() {
		if _, err := c.inventory(article).Release(ctx, &cartv1.ReleaseRequest{Order: order.GetId()}); err != nil {
			return err // The next Checkout tries the order again, and ends it one way or the other.
		}
	}
	if _, err := c.storage.Delete(checkoutKey); err != nil {
		return err
	}
	return status.Error(codes.FailedPrecondition, why.Error())
}

// inventory returns a client of an article's inventory.
func (c *Cart) inventory(article string) cartv1.InventoryClient {
	return cartv1.NewInventoryClient(c.state.Object(inventoryClass, article))
}

// open refuses changes of a cart whose checkout was cut off.
func (c *Cart) open() error {
	_, under, err := c.storage.Get(checkoutKey)
	if err == nil && under {
		return status.Error(codes.FailedPrecondition, "a checkout was cut off: call Checkout again first")
	}
	return err
}

func (c *Cart) items() (map[string]uint32, error) {
	items := make(map[string]uint32)
	for e, err := range c.storage.List(actor.ListOptions{Prefix: itemPrefix}) {
		if err != nil {
			return nil, err
		}
		var quantity uint32
		if err := e.Decode(&quantity); err != nil {
			return nil, err
		}
		items[e.Key[len(itemPrefix):]] = quantity
	}
	return items, nil
}

// ordersMax is how many orders Get shows, the newest.
const ordersMax = 100

func (c *Cart) content() (*cartv1.CartState, error) {
	items, err := c.items()
	if err != nil {
		return nil, err
	}
	out := &cartv1.CartState{Items: items}
	for e, err := range c.storage.List(actor.ListOptions{Prefix: historyPrefix, Reverse: true, Limit: ordersMax}) {
		if err != nil {
			return nil, err
		}
		order := &cartv1.Order{}
		if err := e.Decode(order); err != nil {
			return nil, err
		}
		out.Orders = append(out.Orders, order)
	}
	return out, nil
}
