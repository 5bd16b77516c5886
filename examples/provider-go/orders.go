package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	_ "modernc.org/sqlite"
)

const schema = `
create table if not exists notes (workspace_id text, order_id text, note text) strict;
create table if not exists refunds (workspace_id text, order_id text, cents integer) strict;
create table if not exists calls (
	workspace_id text, key text, answer text, primary key (workspace_id, key)
) strict;`

var totals = map[string]int64{"A-1001": 4_900, "A-1002": 12_000}

// errInterrupted says that a call was begun before, and that nobody knows how it ended.
var errInterrupted = errors.New("the call was begun before")

// Order is one order with what was done with it.
type Order struct {
	OrderID       string   `json:"order_id"`
	TotalCents    int64    `json:"total_cents"`
	RefundedCents int64    `json:"refunded_cents"`
	Notes         []string `json:"notes"`
}

// Failure is a tool's own word, such as "there is no such order", and as final as a result.
type Failure struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Answer holds one of the two.
type Answer struct {
	Result *Order   `json:"result,omitempty"`
	Error  *Failure `json:"error,omitempty"`
}

// Partners do for the orders service what it does not do itself.
type Partners interface {
	LookUp(ctx context.Context) error
	Pay(cents int64)
}

// Orders keeps two orders in every workspace, and what was done with them, in one SQLite file.
//
// A call is recorded by its key, with its answer: a note in the transaction that writes the note, so
// that it is there once or not at all. A refund is recorded before money moves, and its answer after
// that: one that is recorded without an answer was interrupted, and nobody pays again.
type Orders struct {
	db       *sql.DB
	partners Partners
	payments sync.WaitGroup
}

// OpenOrders opens the file, or makes it.
func OpenOrders(file string, partners Partners) (*Orders, error) {
	db, err := sql.Open("sqlite", "file:"+file+"?_txlock=immediate&_pragma=busy_timeout(5000)")
	if err != nil {
		return nil, err
	}
	if _, err := db.Exec(schema); err != nil {
		return nil, errors.Join(fmt.Errorf("creating the tables: %w", err), db.Close())
	}
	return &Orders{db: db, partners: partners}, nil
}

// Close waits for the payments that are under way.
func (o *Orders) Close() error {
	o.payments.Wait()
	return o.db.Close()
}

// Get reads an order. It ends where the caller has given up, or its deadline has passed.
func (o *Orders) Get(ctx context.Context, workspaceID, orderID string) (*Answer, error) {
	if err := o.partners.LookUp(ctx); err != nil {
		return nil, err
	}
	return o.transact(ctx, func(tx *sql.Tx) (*Answer, error) {
		return readOrder(tx, workspaceID, orderID)
	})
}

// Note adds a note to an order.
func (o *Orders) Note(ctx context.Context, workspaceID, key, orderID, text string) (*Answer, error) {
	return o.transact(ctx, func(tx *sql.Tx) (*Answer, error) {
		if known, err := readOutcome(tx, workspaceID, key); known != nil || err != nil {
			return known, err
		}
		if _, ok := totals[orderID]; ok {
			if _, err := tx.Exec("insert into notes values (?, ?, ?)", workspaceID, orderID, text); err != nil {
				return nil, err
			}
		}
		answer, err := readOrder(tx, workspaceID, orderID)
		if err != nil {
			return nil, err
		}
		return answer, record(tx, workspaceID, key, answer)
	})
}

// Refund pays money back.
func (o *Orders) Refund(ctx context.Context, workspaceID, key, orderID string, cents int64) (*Answer, error) {
	answered, err := o.transact(ctx, func(tx *sql.Tx) (*Answer, error) {
		if known, err := readOutcome(tx, workspaceID, key); known != nil || err != nil {
			return known, err
		}
		refusal, err := refuse(tx, workspaceID, orderID, cents)
		if err != nil {
			return nil, err
		}
		if refusal != nil {
			return refusal, record(tx, workspaceID, key, refusal)
		}
		if _, err := tx.Exec("insert into refunds values (?, ?, ?)", workspaceID, orderID, cents); err != nil {
			return nil, err
		}
		return nil, record(tx, workspaceID, key, nil)
	})
	if err != nil || answered != nil {
		return answered, err
	}
	// What has begun is finished and recorded, also where the caller does not wait for it.
	o.payments.Add(1)
	defer o.payments.Done()
	o.partners.Pay(cents)
	return o.transact(context.WithoutCancel(ctx), func(tx *sql.Tx) (*Answer, error) {
		answer, err := readOrder(tx, workspaceID, orderID)
		if err != nil {
			return nil, err
		}
		return answer, record(tx, workspaceID, key, answer)
	})
}

// Outcome tells the recorded answer; nil for a call that was never heard of.
func (o *Orders) Outcome(ctx context.Context, workspaceID, key string) (*Answer, error) {
	return o.transact(ctx, func(tx *sql.Tx) (*Answer, error) {
		return readOutcome(tx, workspaceID, key)
	})
}

func (o *Orders) transact(ctx context.Context, work func(*sql.Tx) (*Answer, error)) (*Answer, error) {
	tx, err := o.db.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer tx.Rollback()
	answer, err := work(tx)
	if err != nil {
		return nil, err
	}
	return answer, tx.Commit()
}

// record keeps an answer by its key; a nil one says that the call has begun.
func record(tx *sql.Tx, workspaceID, key string, answer *Answer) error {
	var text any
	if answer != nil {
		encoded, err := json.Marshal(answer)
		if err != nil {
			return err
		}
		text = string(encoded)
	}
	_, err := tx.Exec(`insert into calls values (?, ?, ?)
		on conflict (workspace_id, key) do update set answer = excluded.answer`, workspaceID, key, text)
	return err
}

func readOutcome(tx *sql.Tx, workspaceID, key string) (*Answer, error) {
	const find = "select answer from calls where workspace_id = ? and key = ?"
	var text sql.NullString
	switch err := tx.QueryRow(find, workspaceID, key).Scan(&text); {
	case errors.Is(err, sql.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, err
	case !text.Valid:
		return nil, errInterrupted
	}
	answer := &Answer{}
	return answer, json.Unmarshal([]byte(text.String), answer)
}

func readOrder(tx *sql.Tx, workspaceID, orderID string) (*Answer, error) {
	total, ok := totals[orderID]
	if !ok {
		message := fmt.Sprintf("There is no order %s.", orderID)
		return &Answer{Error: &Failure{Reason: "order_not_found", Message: message}}, nil
	}
	order := &Order{OrderID: orderID, TotalCents: total, Notes: []string{}}
	const sum = "select coalesce(sum(cents), 0) from refunds where workspace_id = ? and order_id = ?"
	if err := tx.QueryRow(sum, workspaceID, orderID).Scan(&order.RefundedCents); err != nil {
		return nil, err
	}
	const find = "select note from notes where workspace_id = ? and order_id = ? order by rowid"
	rows, err := tx.Query(find, workspaceID, orderID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var note string
		if err := rows.Scan(&note); err != nil {
			return nil, err
		}
		order.Notes = append(order.Notes, note)
	}
	return &Answer{Result: order}, rows.Err()
}

func refuse(tx *sql.Tx, workspaceID, orderID string, cents int64) (*Answer, error) {
	answer, err := readOrder(tx, workspaceID, orderID)
	if err != nil || answer.Error != nil {
		return answer, err
	}
	left := answer.Result.TotalCents - answer.Result.RefundedCents
	if cents <= left {
		return nil, nil
	}
	message := fmt.Sprintf("%d cents are left.", left)
	return &Answer{Error: &Failure{Reason: "refund_too_large", Message: message}}, nil
}
