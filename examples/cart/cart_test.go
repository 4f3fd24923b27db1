package cart_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/client"
	"github.com/holdfast-io/holdfast/examples/cart"
	"github.com/holdfast-io/holdfast/examples/cart/cartv1"
	"github.com/holdfast-io/holdfast/examples/internal/onenode"
)

func TestOrdersAllOrNothing(t *testing.T) {
	t.Parallel()
	s := shop{t, onenode.Start(t, cart.Class(), cart.InventoryClass())}
	ann := cartv1.NewCartClient(s.c.Name("Cart", "ann"))
	if _, err := ann.Checkout(t.Context(), &cartv1.CheckoutRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("an empty cart: got %v", err)
	}
	s.restock("apple", 5)
	s.restock("pear", 1)
	s.add(ann, "apple", 3)
	s.add(ann, "pear", 2)

	_, err := ann.Checkout(t.Context(), &cartv1.CheckoutRequest{})
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "pear: 1 of them") {
		t.Errorf("more pears than there are: got %v", err)
	}
	s.stock("apple", 5) // Put back.
	s.stock("pear", 1)
	if got := s.get(ann); got.GetItems()["apple"] != 3 || got.GetItems()["pear"] != 2 || len(got.GetOrders()) != 0 {
		t.Errorf("the cart was changed: %v", got)
	}

	s.restock("pear", 1)
	order, err := ann.Checkout(t.Context(), &cartv1.CheckoutRequest{})
	if err != nil {
		t.Fatal(err)
	}
	s.stock("apple", 2)
	s.stock("pear", 0)
	if got := s.get(ann); len(got.GetItems()) != 0 || len(got.GetOrders()) != 1 || !proto.Equal(got.GetOrders()[0], order) || order.GetItems()["apple"] != 3 {
		t.Errorf("got %v after order %v", got, order)
	}
}

// A checkout that is cut off between two reservations goes on where it was, and reserves nothing twice.
func TestCheckoutGoesOn(t *testing.T) {
	t.Parallel()
	var fail atomic.Bool
	inventories := actor.NewClass("Inventory", &cartv1.Inventory_ServiceDesc, func(s *actor.State) cartv1.InventoryServer {
		return forgetful{cart.NewInventory(s), &fail}
	})
	s := shop{t, onenode.Start(t, cart.Class(), inventories)}
	ann := cartv1.NewCartClient(s.c.Name("Cart", "ann"))
	s.restock("apple", 5)
	s.add(ann, "apple", 3)

	fail.Store(true) // It reserves, and its answer is lost.
	if _, err := ann.Checkout(t.Context(), &cartv1.CheckoutRequest{}); status.Code(err) != codes.Unknown {
		t.Fatalf("got %v", err)
	}
	s.stock("apple", 2)
	if _, err := ann.Add(t.Context(), &cartv1.AddRequest{Article: "pear"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("changed a cart under checkout: got %v", err)
	}
	fail.Store(false)
	if _, err := ann.Checkout(t.Context(), &cartv1.CheckoutRequest{}); err != nil {
		t.Fatal(err)
	}
	s.stock("apple", 2)
	if got := s.get(ann); len(got.GetItems()) != 0 || len(got.GetOrders()) != 1 {
		t.Errorf("got %v", got)
	}
}

// forgetful is an inventory that loses its answer when it has reserved.
type forgetful struct {
	cartv1.InventoryServer

	on *atomic.Bool
}

// Reserve implements cartv1.InventoryServer.
func (f forgetful) Reserve(ctx context.Context, req *cartv1.ReserveRequest) (*cartv1.StockResponse, error) {
	reply, err := f.InventoryServer.Reserve(ctx, req)
	if err == nil && f.on.Load() {
		return nil, status.Error(codes.Unknown, "lost")
	}
	return reply, err
}

type shop struct {
	t *testing.T
	c *client.Client
}

func (s shop) inventory(article string) cartv1.InventoryClient {
	return cartv1.NewInventoryClient(s.c.Name("Inventory", article))
}

func (s shop) restock(article string, quantity uint32) {
	s.t.Helper()
	if _, err := s.inventory(article).Restock(s.t.Context(), &cartv1.RestockRequest{Quantity: quantity}); err != nil {
		s.t.Fatal(err)
	}
}

func (s shop) stock(article string, want uint32) {
	s.t.Helper()
	got, err := s.inventory(article).Stock(s.t.Context(), &cartv1.StockRequest{})
	if err != nil || got.GetAvailable() != want {
		s.t.Errorf("%s: got %v, %v; want %d", article, got, err, want)
	}
}

func (s shop) add(c cartv1.CartClient, article string, quantity uint32) {
	s.t.Helper()
	if _, err := c.Add(s.t.Context(), &cartv1.AddRequest{Article: article, Quantity: &quantity}); err != nil {
		s.t.Fatal(err)
	}
}

func (s shop) get(c cartv1.CartClient) *cartv1.CartState {
	s.t.Helper()
	got, err := c.Get(s.t.Context(), &cartv1.GetRequest{})
	if err != nil {
		s.t.Fatal(err)
	}
	return got
}
