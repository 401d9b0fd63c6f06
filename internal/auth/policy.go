package auth

// policy is who is whom, and who may what.
type policy struct {
	byIdentity map[Identity]*rule
}

// rule is one principal of a policy.
type rule struct {
	name   string
	grants *grants
}

func (p *policy) principal(ids []Identity) Principal {
	for _, id := range ids {
		if r := p.byIdentity[id]; r != nil {
			return Principal{Name: r.name, Shown: id, grants: r.grants}
		}
	}
	if len(ids) > 0 {
		return Principal{Shown: ids[0]}
	}
	return Principal{}
}
