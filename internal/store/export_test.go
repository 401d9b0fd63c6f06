package store

// What tests of the file's form need to spoil a record so that its checksum is still right.
var (
	Seal        = seal
	CheckSchema = checkSchema
)

// LooksMax is how many records one page of a listing looks at.
const LooksMax = looksMax

// ExpireMax is how many reservations one transaction expires at most.
const ExpireMax = expireMax

// The forms of the records that reservations are made of.
var (
	AccountSpace       = accountSpace
	AccountKey         = accountKey
	AppendAccount      = appendAccount
	ParseAccountRecord = parseAccountRecord
	AppendReceipt      = appendReceipt
	ParseReceipt       = parseReceipt
	ReceiptKey         = receiptKey
	ExpiryKey          = expiryKey
)
