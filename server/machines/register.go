package machines

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"clonecast/internal/protocol"
	"clonecast/server/database"
)

// Register records what a PC says of itself and from which address it says so.
func (r *Registry) Register(ctx context.Context, facts protocol.Facts, address string) (Machine, error) {
	facts = clean(facts)
	claim := EvidenceOf(facts).items()
	if len(claim) == 0 {
		return Machine{}, problem(protocol.CodeInvalid, "does the PC have a network card with an address?",
			"a machine without UUID, serial number, MAC and disk cannot be told from others")
	}
	var id, before string
	created := false
	err := database.Tx(ctx, r.db, func(tx *sql.Tx) error {
		known, err := candidates(tx, claim)
		if err != nil {
			return err
		}
		var rivals []string
		id, rivals = choose(claim, known)
		if id == "" {
			created = true
			id, err = r.create(tx, facts, address, rivals)
		} else {
			if err = r.noteChange(tx, id, claim, known); err == nil {
				before, err = bootMAC(tx, id)
			}
		}
		if err != nil {
			return err
		}
		return r.update(tx, id, facts, claim, address)
	})
	if err != nil {
		return Machine{}, fmt.Errorf("register: %w", err)
	}
	if created {
		r.log.Info("new machine registered",
			"machine", id, "address", address, "product", facts.Product, "serial", facts.Serial)
	}
	m, err := r.Get(ctx, id)
	if err == nil && m.MAC() != before {
		r.changed()
	}
	return m, err
}

// bootMAC is the address that a machine was last known to boot from.
func bootMAC(tx *sql.Tx, id string) (string, error) {
	m, err := scan(tx.QueryRow("SELECT "+columns+" FROM machines WHERE id = $1", id))
	return m.MAC(), err
}

// Identify finds the machine that a claim comes from without recording anything. A
// claim that names a MAC unknown of that machine is not enough: it has to register.
func (r *Registry) Identify(ctx context.Context, e Evidence) (Machine, bool, error) {
	claim := e.items()
	known, err := candidates(r.db, claim)
	if err != nil {
		return Machine{}, false, fmt.Errorf("identify machine: %w", err)
	}
	id, _ := choose(claim, known)
	if id == "" {
		return Machine{}, false, nil
	}
	at := slices.IndexFunc(known, func(k candidate) bool { return k.id == id })
	for _, c := range claim {
		if c.kind == kindMAC && !slices.Contains(known[at].items, c) {
			return Machine{}, false, nil
		}
	}
	m, err := r.Get(ctx, id)
	return m, err == nil, err
}

// querier is what *sql.DB and *sql.Tx share.
type querier interface {
	Query(query string, args ...any) (*sql.Rows, error)
}

// candidates gives all machines that share a piece of evidence with the claim.
func candidates(db querier, claim []item) ([]candidate, error) {
	var ids []string
	for _, c := range claim {
		err := each(db, func(v []string) { ids = append(ids, v[0]) }, 1,
			"SELECT machine_id FROM machine_evidence WHERE kind = $1 AND value = $2", c.kind, c.value)
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(ids)
	var list []candidate
	for _, id := range slices.Compact(ids) {
		k := candidate{id: id}
		err := each(db, func(v []string) { k.items = append(k.items, item{v[0], v[1]}) }, 2,
			"SELECT kind, value FROM machine_evidence WHERE machine_id = $1 ORDER BY kind, value", id)
		if err != nil {
			return nil, err
		}
		list = append(list, k)
	}
	return list, nil
}

// each calls f with the n text columns of every row.
func each(db querier, f func([]string), n int, query string, args ...any) error {
	rows, err := db.Query(query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		values := make([]string, n)
		targets := make([]any, n)
		for i := range values {
			targets[i] = &values[i]
		}
		if err := rows.Scan(targets...); err != nil {
			return err
		}
		f(values)
	}
	return rows.Err()
}

// create makes a pending machine, unless too many wait already.
func (r *Registry) create(tx *sql.Tx, facts protocol.Facts, address string, rivals []string) (string, error) {
	now := r.now()
	_, err := tx.Exec("DELETE FROM machines WHERE state = $1 AND last_seen < $2",
		protocol.MachinePending, database.Millis(now.Add(-pendingLifetime)))
	if err != nil {
		return "", err
	}
	var all, here int
	err = tx.QueryRow("SELECT count(*), count(CASE WHEN address = $2 THEN 1 END) FROM machines WHERE state = $1",
		protocol.MachinePending, address).Scan(&all, &here)
	if err != nil {
		return "", err
	}
	if all >= maxPending || here >= maxPendingPerHost {
		return "", problem(protocol.CodeBusy, "adopt or remove pending machines: 'clonecast machine list'",
			"%d machines wait for adoption, %d of them at %s", all, here, address)
	}
	id := newID()
	note := ""
	if names := r.names(tx, rivals); len(names) > 0 {
		note = "shares identity with " + strings.Join(names, ", ") + ": the same PC after a repair, or a duplicate"
		r.log.Warn("duplicate identity", "machine", id, "address", address, "like", names)
	}
	_, err = tx.Exec(`INSERT INTO machines (id, name, state, note, address, facts, registered, last_seen)
		VALUES ($1, $2, $3, $4, $5, '{}', $6, $6)`,
		id, "new-"+id, protocol.MachinePending, note, address, database.Millis(now))
	return id, err
}

func (r *Registry) names(tx *sql.Tx, ids []string) []string {
	var names []string
	for _, id := range ids[:min(len(ids), 5)] {
		add := func(v []string) { names = append(names, v[0]) }
		if err := each(tx, add, 1, "SELECT name FROM machines WHERE id = $1", id); err != nil {
			r.log.Error("read machine name", "machine", id, "error", err)
		}
	}
	return names
}

// noteChange tells the admin when a known machine contradicts what it was: a repair,
// or somebody who pretends to be it.
func (r *Registry) noteChange(tx *sql.Tx, id string, claim []item, known []candidate) error {
	at := slices.IndexFunc(known, func(k candidate) bool { return k.id == id })
	var changed []string
	for _, kind := range []string{kindUUID, kindSerial, kindMAC, kindDisk} {
		of := func(i item) bool { return i.kind == kind }
		common := func(i item) bool { return i.kind == kind && slices.Contains(known[at].items, i) }
		if slices.ContainsFunc(claim, of) && slices.ContainsFunc(known[at].items, of) && !slices.ContainsFunc(claim, common) {
			changed = append(changed, kind)
		}
	}
	if len(changed) == 0 {
		return nil
	}
	note := fmt.Sprintf("%s: came with another %s", r.now().UTC().Format("2006-01-02 15:04"), strings.Join(changed, ", "))
	r.log.Warn("machine changed", "machine", id, "changed", changed)
	_, err := tx.Exec("UPDATE machines SET note = $2 WHERE id = $1", id, note)
	return err
}

// update stores facts, evidence and the time of this visit.
func (r *Registry) update(tx *sql.Tx, id string, facts protocol.Facts, claim []item, address string) error {
	now := database.Millis(r.now())
	b, err := json.Marshal(facts)
	if err != nil {
		return err
	}
	_, err = tx.Exec("UPDATE machines SET facts = $2, address = $3, last_seen = $4 WHERE id = $1",
		id, string(b), address, now)
	if err != nil {
		return err
	}
	for _, c := range claim {
		_, err := tx.Exec(`INSERT INTO machine_evidence (machine_id, kind, value, last_seen) VALUES ($1, $2, $3, $4)
			ON CONFLICT (machine_id, kind, value) DO UPDATE SET last_seen = excluded.last_seen`, id, c.kind, c.value, now)
		if err != nil {
			return err
		}
	}
	_, err = tx.Exec(`INSERT INTO machine_facts (machine_id, digest, facts, first_seen, last_seen)
		VALUES ($1, $2, $3, $4, $4)
		ON CONFLICT (machine_id, digest) DO UPDATE SET last_seen = excluded.last_seen`, id, digest(facts), string(b), now)
	if err != nil {
		return err
	}
	if err := trim(tx, "machine_evidence", id, maxEvidence); err != nil {
		return err
	}
	return trim(tx, "machine_facts", id, maxHistory)
}

// trim deletes a machine's oldest rows of a table beyond the newest n.
func trim(tx *sql.Tx, table, id string, n int) error {
	var oldest int64
	err := tx.QueryRow("SELECT last_seen FROM "+table+" WHERE machine_id = $1 ORDER BY last_seen DESC LIMIT 1 OFFSET $2",
		id, n).Scan(&oldest)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = tx.Exec("DELETE FROM "+table+" WHERE machine_id = $1 AND last_seen <= $2", id, oldest)
	return err
}
