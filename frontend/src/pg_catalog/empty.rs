//! Relations that clients query and that have no rows here, because what they describe does not exist.

use crate::error::Result;
use crate::pg_catalog::{Context, Rows, SystemRelation};

fn nothing(_: &Context<'_>, _: &mut Rows) -> Result<()> {
    Ok(())
}

const fn empty(name: &'static str, oid: u32, columns: &'static str) -> SystemRelation {
    SystemRelation { schema: "pg_catalog", name, oid, columns, fill: nothing }
}

/// The relations of this file.
pub const RELATIONS: &[SystemRelation] = &[
    empty("pg_aggregate", 2600, "aggfnoid:oid aggkind:char aggnumdirectargs:int2 aggtransfn:oid"),
    empty("pg_auth_members", 1261, "roleid:oid member:oid grantor:oid admin_option:bool"),
    empty("pg_cast", 2605, "oid:oid castsource:oid casttarget:oid castfunc:oid castcontext:char castmethod:char"),
    empty(
        "pg_conversion",
        2607,
        "oid:oid conname:name connamespace:oid conowner:oid conforencoding:int4 contoencoding:int4 conproc:oid condefault:bool",
    ),
    empty("pg_db_role_setting", 2964, "setdatabase:oid setrole:oid setconfig:text[]"),
    empty("pg_default_acl", 826, "oid:oid defaclrole:oid defaclnamespace:oid defaclobjtype:char defaclacl:text[]"),
    empty(
        "pg_depend",
        2608,
        "classid:oid objid:oid objsubid:int4 refclassid:oid refobjid:oid refobjsubid:int4 deptype:char",
    ),
    empty("pg_enum", 3501, "oid:oid enumtypid:oid enumsortorder:float4 enumlabel:name"),
    empty(
        "pg_event_trigger",
        3466,
        "oid:oid evtname:name evtevent:name evtowner:oid evtfoid:oid evtenabled:char evttags:text[]",
    ),
    empty(
        "pg_extension",
        3079,
        "oid:oid extname:name extowner:oid extnamespace:oid extrelocatable:bool extversion:text extconfig:oid[] extcondition:text[]",
    ),
    empty("pg_inherits", 2611, "inhrelid:oid inhparent:oid inhseqno:int4 inhdetachpending:bool"),
    empty("pg_largeobject_metadata", 2995, "oid:oid lomowner:oid lomacl:text[]"),
    empty(
        "pg_opclass",
        2616,
        "oid:oid opcmethod:oid opcname:name opcnamespace:oid opcowner:oid opcfamily:oid opcintype:oid opcdefault:bool opckeytype:oid",
    ),
    empty(
        "pg_operator",
        2617,
        "oid:oid oprname:name oprnamespace:oid oprowner:oid oprkind:char oprcanmerge:bool oprcanhash:bool oprleft:oid oprright:oid oprresult:oid oprcom:oid oprnegate:oid oprcode:oid",
    ),
    empty("pg_opfamily", 2753, "oid:oid opfmethod:oid opfname:name opfnamespace:oid opfowner:oid"),
    empty("pg_partitioned_table", 3350, "partrelid:oid partstrat:char partnatts:int2 partdefid:oid partattrs:int2[]"),
    empty(
        "pg_policy",
        3256,
        "oid:oid polname:name polrelid:oid polcmd:char polpermissive:bool polroles:oid[] polqual:text polwithcheck:text",
    ),
    empty("pg_prepared_xacts", 12_130, "transaction:int8 gid:text prepared:timestamptz owner:name database:name"),
    empty(
        "pg_publication",
        6104,
        "oid:oid pubname:name pubowner:oid puballtables:bool pubinsert:bool pubupdate:bool pubdelete:bool pubtruncate:bool pubviaroot:bool",
    ),
    empty("pg_publication_namespace", 6237, "oid:oid pnpubid:oid pnnspid:oid"),
    empty("pg_publication_rel", 6106, "oid:oid prpubid:oid prrelid:oid prqual:text prattrs:int2[]"),
    empty("pg_publication_tables", 12_131, "pubname:name schemaname:name tablename:name"),
    empty(
        "pg_range",
        3541,
        "rngtypid:oid rngsubtype:oid rngmultitypid:oid rngcollation:oid rngsubopc:oid rngcanonical:oid rngsubdiff:oid",
    ),
    empty(
        "pg_replication_slots",
        12_132,
        "slot_name:name plugin:name slot_type:text datoid:oid database:name temporary:bool active:bool active_pid:int4",
    ),
    empty(
        "pg_rewrite",
        2618,
        "oid:oid rulename:name ev_class:oid ev_type:char ev_enabled:char is_instead:bool ev_qual:text ev_action:text",
    ),
    empty("pg_rules", 12_133, "schemaname:name tablename:name rulename:name definition:text"),
    empty("pg_seclabel", 3596, "objoid:oid classoid:oid objsubid:int4 provider:text label:text"),
    empty(
        "pg_sequence",
        2224,
        "seqrelid:oid seqtypid:oid seqstart:int8 seqincrement:int8 seqmax:int8 seqmin:int8 seqcache:int8 seqcycle:bool",
    ),
    empty("pg_sequences", 12_134, "schemaname:name sequencename:name sequenceowner:name last_value:int8"),
    empty("pg_shdepend", 1214, "dbid:oid classid:oid objid:oid objsubid:int4 refclassid:oid refobjid:oid deptype:char"),
    empty("pg_shdescription", 2396, "objoid:oid classoid:oid description:text"),
    empty("pg_shseclabel", 3592, "objoid:oid classoid:oid provider:text label:text"),
    empty(
        "pg_statistic_ext",
        3381,
        "oid:oid stxrelid:oid stxname:name stxnamespace:oid stxowner:oid stxstattarget:int4 stxkeys:int2[] stxkind:text[]",
    ),
    empty(
        "pg_stats",
        12_135,
        "schemaname:name tablename:name attname:name inherited:bool null_frac:float4 avg_width:int4 n_distinct:float4",
    ),
    empty(
        "pg_subscription",
        6100,
        "oid:oid subdbid:oid subname:name subowner:oid subenabled:bool subconninfo:text subpublications:text[]",
    ),
    empty("pg_subscription_rel", 6102, "srsubid:oid srrelid:oid srsubstate:char"),
    empty("pg_transform", 3576, "oid:oid trftype:oid trflang:oid trffromsql:oid trftosql:oid"),
    empty(
        "pg_trigger",
        2620,
        "oid:oid tgrelid:oid tgparentid:oid tgname:name tgfoid:oid tgtype:int2 tgenabled:char tgisinternal:bool tgconstrrelid:oid tgconstrindid:oid tgconstraint:oid tgdeferrable:bool tginitdeferred:bool",
    ),
    empty("pg_ts_config", 3602, "oid:oid cfgname:name cfgnamespace:oid cfgowner:oid cfgparser:oid"),
    empty(
        "pg_ts_dict",
        3600,
        "oid:oid dictname:name dictnamespace:oid dictowner:oid dicttemplate:oid dictinitoption:text",
    ),
    empty("pg_ts_parser", 3601, "oid:oid prsname:name prsnamespace:oid"),
    empty("pg_ts_template", 3764, "oid:oid tmplname:name tmplnamespace:oid"),
    empty("pg_user_mappings", 12_137, "umid:oid srvid:oid srvname:name umuser:oid usename:name umoptions:text[]"),
    empty("pg_user_mapping", 1418, "oid:oid umuser:oid umserver:oid umoptions:text[]"),
    empty("pg_largeobject", 2613, "loid:oid pageno:int4"),
    empty("pg_locks", 12_136, "locktype:text database:oid relation:oid pid:int4 mode:text granted:bool"),
];
